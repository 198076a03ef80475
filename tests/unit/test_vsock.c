/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-vsock between a simulated driver and real unix sockets. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "virtio/vsock.h"
#include "virtio/vsock_connection.h"
#include "virtio_state.h"

#define CID	    42
#define PACKETS	    0x400000 /* transmitted packets are built here */
#define BUFFERS	    0x100000 /* receive buffers, BUFFER_SIZE each */
#define BUFFER_SIZE 4096
#define GUEST_PORT  5000
#define HOST_PORT   6000

struct vsock {
	struct driver driver;
	char directory[32], path[64];
	int listener;	       /* of HOST_PORT, or -1 */
	unsigned int received; /* buffers taken so far */
	unsigned int moves;
};

static int unix_socket(const char *path, bool server)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (server) {
		assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
		assert_int_equal(listen(fd, 500), 0);
	} else {
		assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	}
	return fd;
}

static void offer_buffers(struct vsock *vsock, unsigned int first, unsigned int count)
{
	for (unsigned int i = first; i < first + count; i++)
		driver_offer(&vsock->driver, VSOCK_QUEUE_RX,
			     &(struct driver_buffer){BUFFERS + i % VSOCK_QUEUE_SIZE * BUFFER_SIZE,
						     BUFFER_SIZE, true},
			     1);
	driver_notify(&vsock->driver, VSOCK_QUEUE_RX);
}

static void setup_without_buffers(struct vsock *vsock, uint64_t features)
{
	struct ram_backing_options anonymous = {.backing = RAM_BACKING_ANON, .host_node = -1};
	struct virtio_device *device;
	char text[128];

	*vsock = (struct vsock){.listener = -1};
	strcpy(vsock->directory, "/tmp/godwit-vsock-XXXXXX");
	assert_non_null(mkdtemp(vsock->directory));
	snprintf(vsock->path, sizeof(vsock->path), "%s/s", vsock->directory);
	snprintf(text, sizeof(text), "cid=%d,path=%s", CID, vsock->path);
	driver_no_error(virtio_vsock_create(text, &device));
	driver_create_memory(&vsock->driver, &anonymous);
	driver_add_device(&vsock->driver, device);
	driver_start(&vsock->driver, features);
}

static void setup(struct vsock *vsock)
{
	setup_without_buffers(vsock, 0);
	offer_buffers(vsock, 0, VSOCK_QUEUE_SIZE);
}

static void port_path(const struct vsock *vsock, char *path, size_t size)
{
	snprintf(path, size, "%s_%d", vsock->path, HOST_PORT);
}

static void listen_at_host_port(struct vsock *vsock)
{
	char path[80];

	port_path(vsock, path, sizeof(path));
	vsock->listener = unix_socket(path, true);
}

static void teardown(struct vsock *vsock)
{
	char path[80];

	driver_destroy(&vsock->driver);
	port_path(vsock, path, sizeof(path));
	if (vsock->listener >= 0) {
		close(vsock->listener);
		unlink(path);
	}
	assert_int_equal(rmdir(vsock->directory), 0); /* the device removed its socket */
}

static struct vsock_header header_of(uint16_t op, uint32_t size)
{
	return (struct vsock_header){
	    .src_cid = CID,
	    .dst_cid = VSOCK_HOST_CID,
	    .src_port = GUEST_PORT,
	    .dst_port = HOST_PORT,
	    .size = size,
	    .type = VSOCK_TYPE_STREAM,
	    .op = op,
	    .buf_alloc = 1 << 20,
	};
}

/* Sends @header with @chain_size bytes behind it. */
static void send_raw(struct vsock *vsock, const struct vsock_header *header, const void *data,
		     uint32_t chain_size)
{
	struct driver_buffer buffers[] = {{PACKETS, VSOCK_HEADER_SIZE, false},
					  {PACKETS + 0x1000, chain_size, false}};

	vsock_header_encode(header, vsock->driver.ram + PACKETS);
	if (chain_size)
		memcpy(vsock->driver.ram + PACKETS + 0x1000, data, chain_size);
	driver_request(&vsock->driver, VSOCK_QUEUE_TX, buffers, chain_size ? 2 : 1);
}

static void send_op(struct vsock *vsock, uint16_t op)
{
	struct vsock_header header = header_of(op, 0);

	send_raw(vsock, &header, NULL, 0);
}

static void send_data(struct vsock *vsock, const void *data, uint32_t size)
{
	struct vsock_header header = header_of(VSOCK_OP_RW, size);

	send_raw(vsock, &header, data, size);
}

static void send_shutdown(struct vsock *vsock, uint32_t flags)
{
	struct vsock_header header = header_of(VSOCK_OP_SHUTDOWN, 0);

	header.flags = flags;
	send_raw(vsock, &header, NULL, 0);
}

/* The next packet for the guest; *payload points to what is behind the header. */
static struct vsock_header next_packet(struct vsock *vsock, const uint8_t **payload)
{
	uint8_t *buffer =
	    vsock->driver.ram + BUFFERS + vsock->received % VSOCK_QUEUE_SIZE * BUFFER_SIZE;
	uint32_t size = driver_wait(&vsock->driver, VSOCK_QUEUE_RX, NULL);
	struct vsock_header header;

	vsock->received++;
	vsock_header_decode(buffer, &header);
	assert_int_equal(size, VSOCK_HEADER_SIZE + header.size);
	if (payload)
		*payload = buffer + VSOCK_HEADER_SIZE;
	return header;
}

static void expect(struct vsock *vsock, uint16_t op)
{
	struct vsock_header header = next_packet(vsock, NULL);

	assert_int_equal(header.op, op);
	assert_int_equal(header.src_cid, VSOCK_HOST_CID);
	assert_int_equal(header.dst_cid, CID);
}

static void expect_silence(struct vsock *vsock)
{
	usleep(20000);
	assert_false(driver_used(&vsock->driver, VSOCK_QUEUE_RX));
}

/* The guest connects; the descriptor of the host's program. */
static int guest_connects(struct vsock *vsock)
{
	if (vsock->listener < 0)
		listen_at_host_port(vsock);
	send_op(vsock, VSOCK_OP_REQUEST);
	expect(vsock, VSOCK_OP_RESPONSE);
	return accept(vsock->listener, NULL, NULL);
}

static void expect_bytes(int fd, const char *text)
{
	char got[64] = {0};
	size_t done = 0;

	while (done < strlen(text)) {
		struct pollfd ready = {.fd = fd, .events = POLLIN};
		ssize_t size;

		assert_int_equal(poll(&ready, 1, 5000), 1);
		size = recv(fd, got + done, strlen(text) - done, 0);
		assert_true(size > 0);
		done += (size_t)size;
	}
	assert_string_equal(got, text);
}

static void expect_end(int fd)
{
	struct pollfd ready = {.fd = fd, .events = POLLIN};
	char byte;

	assert_int_equal(poll(&ready, 1, 5000), 1);
	assert_int_equal(recv(fd, &byte, 1, 0), 0);
}

static json_int_t connections(struct vsock *vsock)
{
	json_t *report = virtio_device_describe(vsock->driver.device);
	json_int_t count = json_integer_value(json_object_get(report, "connections"));

	json_decref(report);
	return count;
}

/* --- Both ways of connecting --- */

static void a_guest_reaches_a_program_of_the_host(void **state)
{
	const uint8_t *payload;
	struct vsock_header header;
	struct vsock vsock;
	int fd;

	setup(&vsock);
	fd = guest_connects(&vsock);
	send_data(&vsock, "to host", 7);
	expect_bytes(fd, "to host");
	assert_int_equal(send(fd, "to guest", 8, 0), 8);
	header = next_packet(&vsock, &payload);
	assert_int_equal(header.op, VSOCK_OP_RW);
	assert_int_equal(header.size, 8);
	assert_int_equal(header.fwd_cnt, 7);
	assert_memory_equal(payload, "to guest", 8);
	close(fd);
	teardown(&vsock);
}

static void a_program_of_the_host_reaches_the_guest(void **state)
{
	struct vsock_header header, answer;
	struct vsock vsock;
	char ok[32];
	int fd;

	setup(&vsock);
	fd = unix_socket(vsock.path, false);
	assert_int_equal(send(fd, "CONNECT 5000\n", 13, 0), 13);
	header = next_packet(&vsock, NULL);
	assert_int_equal(header.op, VSOCK_OP_REQUEST);
	assert_int_equal(header.dst_port, 5000);
	answer = header_of(VSOCK_OP_RESPONSE, 0);
	answer.dst_port = header.src_port;
	send_raw(&vsock, &answer, NULL, 0);
	snprintf(ok, sizeof(ok), "OK %u\n", header.src_port);
	expect_bytes(fd, ok);
	close(fd);
	teardown(&vsock);
}

static void a_program_that_the_guest_refuses_is_disconnected(void **state)
{
	struct vsock_header header, answer;
	struct vsock vsock;
	int fd;

	setup(&vsock);
	fd = unix_socket(vsock.path, false);
	assert_int_equal(send(fd, "CONNECT 5000\n", 13, 0), 13);
	header = next_packet(&vsock, NULL);
	answer = header_of(VSOCK_OP_RST, 0);
	answer.dst_port = header.src_port;
	send_raw(&vsock, &answer, NULL, 0);
	expect_end(fd);
	close(fd);
	teardown(&vsock);
}

static void a_wrong_greeting_is_disconnected(void **state)
{
	struct vsock vsock;
	int fd;

	setup(&vsock);
	fd = unix_socket(vsock.path, false);
	assert_int_equal(send(fd, "HELLO\n", 6, 0), 6);
	expect_end(fd);
	expect_silence(&vsock);
	close(fd);
	teardown(&vsock);
}

static void a_port_that_nobody_listens_at_is_reset(void **state)
{
	struct vsock vsock;

	setup(&vsock);
	send_op(&vsock, VSOCK_OP_REQUEST);
	expect(&vsock, VSOCK_OP_RST);
	assert_int_equal(connections(&vsock), 0);
	teardown(&vsock);
}

/* --- Ends --- */

static void a_clean_close_by_the_guest_ends_with_a_reset(void **state)
{
	struct vsock vsock;
	int fd;

	setup(&vsock);
	fd = guest_connects(&vsock);
	send_data(&vsock, "bye", 3);
	send_shutdown(&vsock, VSOCK_SHUTDOWN_BOTH);
	expect(&vsock, VSOCK_OP_RST);
	expect_bytes(fd, "bye");
	expect_end(fd);
	assert_int_equal(connections(&vsock), 0);
	close(fd);
	teardown(&vsock);
}

static void a_close_by_the_host_shuts_both_directions(void **state)
{
	struct vsock_header header;
	struct vsock vsock;
	int fd;

	setup(&vsock);
	fd = guest_connects(&vsock);
	assert_int_equal(send(fd, "last", 4, 0), 4);
	close(fd);
	assert_int_equal(next_packet(&vsock, NULL).op, VSOCK_OP_RW);
	/* The end of the data may be seen a moment before the hang-up. */
	header = next_packet(&vsock, NULL);
	assert_int_equal(header.op, VSOCK_OP_SHUTDOWN);
	if (header.flags == VSOCK_SHUTDOWN_SEND)
		header = next_packet(&vsock, NULL);
	assert_int_equal(header.op, VSOCK_OP_SHUTDOWN);
	assert_int_equal(header.flags, VSOCK_SHUTDOWN_BOTH);
	send_op(&vsock, VSOCK_OP_RST);
	assert_int_equal(connections(&vsock), 0);
	teardown(&vsock);
}

static void half_a_close_leaves_the_other_direction(void **state)
{
	struct vsock_header header;
	struct vsock vsock;
	int fd;

	setup(&vsock);
	fd = guest_connects(&vsock);
	shutdown(fd, SHUT_WR);
	header = next_packet(&vsock, NULL);
	assert_int_equal(header.op, VSOCK_OP_SHUTDOWN);
	assert_int_equal(header.flags, VSOCK_SHUTDOWN_SEND);
	send_data(&vsock, "still", 5);
	expect_bytes(fd, "still");
	send_shutdown(&vsock, VSOCK_SHUTDOWN_SEND);
	expect_end(fd);
	close(fd);
	teardown(&vsock);
}

static void what_was_sent_before_a_close_arrives_though_the_host_is_slow(void **state)
{
	static uint8_t data[4096], got[4096];
	size_t sent = 0, forwarded = 0, seen = 0;
	struct vsock vsock;
	int fd;

	setup(&vsock);
	fd = guest_connects(&vsock);
	/* As much as the credit allows while nobody reads: some of it ends up in the device. */
	while (sent + sizeof(data) - forwarded <= VSOCK_BUFFER_SIZE) {
		struct vsock_header header = header_of(VSOCK_OP_RW, sizeof(data));

		send_raw(&vsock, &header, data, sizeof(data));
		sent += sizeof(data);
		if (driver_used(&vsock.driver, VSOCK_QUEUE_RX)) {
			header = next_packet(&vsock, NULL);
			assert_int_equal(header.op, VSOCK_OP_CREDIT_UPDATE);
			forwarded = header.fwd_cnt;
		}
	}
	send_shutdown(&vsock, VSOCK_SHUTDOWN_BOTH);
	send_op(&vsock, VSOCK_OP_RST); /* the guest does not wait either */
	for (ssize_t size; (size = recv(fd, got, sizeof(got), 0)) > 0;)
		seen += (size_t)size;
	assert_int_equal(seen, sent);
	close(fd);
	for (int i = 0; i < 1000 && connections(&vsock); i++)
		usleep(1000);
	assert_int_equal(connections(&vsock), 0);
	teardown(&vsock);
}

/* --- Credit --- */

static void data_beyond_the_credit_resets_the_connection(void **state)
{
	static uint8_t data[16384];
	struct vsock_header header;
	struct vsock vsock;
	int fd;

	setup(&vsock);
	fd = guest_connects(&vsock);
	/* Nobody reads: the socket fills up, then the buffer, then the guest breaks the rule. */
	for (int i = 0; i < 100; i++) {
		header = header_of(VSOCK_OP_RW, sizeof(data));
		send_raw(&vsock, &header, data, sizeof(data));
		if (!driver_used(&vsock.driver, VSOCK_QUEUE_RX))
			continue;
		header = next_packet(&vsock, NULL);
		if (header.op == VSOCK_OP_RST)
			break;
		assert_int_equal(header.op, VSOCK_OP_CREDIT_UPDATE);
	}
	assert_int_equal(header.op, VSOCK_OP_RST);
	assert_int_equal(connections(&vsock), 0);
	assert_false(driver_needs_reset(&vsock.driver));
	close(fd);
	teardown(&vsock);
}

static void the_host_waits_for_the_guests_room(void **state)
{
	struct vsock_header header;
	struct vsock vsock;
	int fd;

	setup(&vsock);
	listen_at_host_port(&vsock);
	header = header_of(VSOCK_OP_REQUEST, 0);
	header.buf_alloc = 10;
	send_raw(&vsock, &header, NULL, 0);
	expect(&vsock, VSOCK_OP_RESPONSE);
	fd = accept(vsock.listener, NULL, NULL);
	assert_int_equal(send(fd, "0123456789abcdef", 16, 0), 16);
	assert_int_equal(next_packet(&vsock, NULL).size, 10);
	expect(&vsock, VSOCK_OP_CREDIT_REQUEST);
	expect_silence(&vsock);
	header = header_of(VSOCK_OP_CREDIT_UPDATE, 0);
	header.buf_alloc = 10;
	header.fwd_cnt = 10;
	send_raw(&vsock, &header, NULL, 0);
	assert_int_equal(next_packet(&vsock, NULL).size, 6);
	close(fd);
	teardown(&vsock);
}

/* --- What a guest gets wrong --- */

static void packets_of_no_connection_are_reset(void **state)
{
	struct vsock_header header;
	struct vsock vsock;

	setup(&vsock);
	send_op(&vsock, VSOCK_OP_RW);
	expect(&vsock, VSOCK_OP_RST);
	header = header_of(VSOCK_OP_REQUEST, 0);
	header.type = VSOCK_TYPE_SEQPACKET;
	send_raw(&vsock, &header, NULL, 0);
	expect(&vsock, VSOCK_OP_RST);
	header = header_of(VSOCK_OP_REQUEST, 0);
	header.dst_cid = 77;
	send_raw(&vsock, &header, NULL, 0);
	header = next_packet(&vsock, NULL);
	assert_int_equal(header.op, VSOCK_OP_RST);
	assert_int_equal(header.src_cid, 77);
	send_op(&vsock, VSOCK_OP_RST);
	expect_silence(&vsock); /* a reset is not answered */
	teardown(&vsock);
}

static void a_packet_from_another_cid_is_dropped(void **state)
{
	struct vsock_header header = header_of(VSOCK_OP_RW, 0);
	struct vsock vsock;

	setup(&vsock);
	header.src_cid = CID + 1;
	send_raw(&vsock, &header, NULL, 0);
	expect_silence(&vsock);
	teardown(&vsock);
}

static void a_payload_beyond_its_chain_resets_the_connection(void **state)
{
	struct vsock_header header = header_of(VSOCK_OP_RW, 100);
	struct vsock vsock;
	int fd;

	setup(&vsock);
	fd = guest_connects(&vsock);
	send_raw(&vsock, &header, "short", 5);
	expect(&vsock, VSOCK_OP_RST);
	expect_end(fd);
	close(fd);
	teardown(&vsock);
}

static void a_chain_shorter_than_a_header_needs_a_reset(void **state)
{
	struct vsock vsock;

	setup(&vsock);
	driver_offer(&vsock.driver, VSOCK_QUEUE_TX,
		     &(struct driver_buffer){PACKETS, VSOCK_HEADER_SIZE - 1, false}, 1);
	driver_notify(&vsock.driver, VSOCK_QUEUE_TX);
	assert_true(driver_needs_reset(&vsock.driver));
	teardown(&vsock);
}

static void a_receive_buffer_without_room_needs_a_reset(void **state)
{
	struct vsock vsock;

	setup_without_buffers(&vsock, 0);
	driver_offer(&vsock.driver, VSOCK_QUEUE_RX,
		     &(struct driver_buffer){BUFFERS, VSOCK_HEADER_SIZE, true}, 1);
	send_op(&vsock, VSOCK_OP_RW); /* to be answered with a reset */
	assert_true(driver_needs_reset(&vsock.driver));
	teardown(&vsock);
}

static void streams_are_refused_when_only_others_were_negotiated(void **state)
{
	struct vsock vsock;

	setup_without_buffers(&vsock, VIRTIO_FEATURE(2));
	offer_buffers(&vsock, 0, 4);
	listen_at_host_port(&vsock);
	send_op(&vsock, VSOCK_OP_REQUEST);
	expect(&vsock, VSOCK_OP_RST);
	teardown(&vsock);
}

static void a_guest_without_receive_buffers_is_stopped_and_goes_on(void **state)
{
	struct driver_buffer buffer = {PACKETS, VSOCK_HEADER_SIZE, false};
	struct vsock_header header = header_of(VSOCK_OP_RW, 0);
	unsigned int sent = VSOCK_RESETS + 20;
	struct vsock vsock;

	setup_without_buffers(&vsock, 0);
	vsock_header_encode(&header, vsock.driver.ram + PACKETS);
	for (unsigned int i = 0; i < sent; i++)
		driver_offer(&vsock.driver, VSOCK_QUEUE_TX, &buffer, 1);
	driver_notify(&vsock.driver, VSOCK_QUEUE_TX);
	for (unsigned int i = 0; i < VSOCK_RESETS; i++)
		driver_wait(&vsock.driver, VSOCK_QUEUE_TX, NULL);
	usleep(20000);
	assert_false(driver_used(&vsock.driver, VSOCK_QUEUE_TX));
	offer_buffers(&vsock, 0, VSOCK_QUEUE_SIZE);
	for (unsigned int i = 0; i < sent; i++)
		expect(&vsock, VSOCK_OP_RST);
	teardown(&vsock);
}

static void connections_are_bounded(void **state)
{
	struct vsock_header header = header_of(VSOCK_OP_REQUEST, 0);
	struct vsock vsock;

	setup(&vsock);
	listen_at_host_port(&vsock);
	for (int i = 0; i < VSOCK_CONNECTIONS; i++) {
		header.src_port = 10000 + i;
		send_raw(&vsock, &header, NULL, 0);
		expect(&vsock, VSOCK_OP_RESPONSE);
	}
	offer_buffers(&vsock, vsock.received, 1);
	header.src_port = 1;
	send_raw(&vsock, &header, NULL, 0);
	expect(&vsock, VSOCK_OP_RST);
	assert_int_equal(connections(&vsock), VSOCK_CONNECTIONS);
	teardown(&vsock);
}

/* --- Life cycle --- */

static void a_reset_closes_all_connections(void **state)
{
	struct vsock vsock;
	int fd;

	setup(&vsock);
	fd = guest_connects(&vsock);
	driver_set_status(&vsock.driver, 0);
	expect_end(fd);
	assert_int_equal(connections(&vsock), 0);
	close(fd);
	driver_start(&vsock.driver, 0);
	vsock.received = 0;
	offer_buffers(&vsock, 0, 4);
	fd = guest_connects(&vsock);
	assert_true(fd >= 0);
	close(fd);
	teardown(&vsock);
}

static void a_paused_device_keeps_what_comes_for_later(void **state)
{
	struct vsock vsock;
	int fd;

	setup(&vsock);
	fd = guest_connects(&vsock);
	virtio_device_quiesce(vsock.driver.device);
	assert_int_equal(send(fd, "later", 5, 0), 5);
	close(fd); /* a hang-up during the pause */
	expect_silence(&vsock);
	virtio_device_resume(vsock.driver.device);
	assert_int_equal(next_packet(&vsock, NULL).size, 5);
	assert_int_equal(next_packet(&vsock, NULL).flags, VSOCK_SHUTDOWN_BOTH);
	teardown(&vsock);
}

static void without_a_driver_programs_are_disconnected(void **state)
{
	struct vsock vsock;
	int fd;

	setup(&vsock);
	driver_set_status(&vsock.driver, 0);
	fd = unix_socket(vsock.path, false);
	expect_end(fd);
	close(fd);
	teardown(&vsock);
}

static void the_configuration_is_the_cid(void **state)
{
	struct vsock vsock;

	setup(&vsock);
	assert_int_equal(driver_read_config(&vsock.driver, 0, 8), CID);
	teardown(&vsock);
}

static void expect_refusal(const char *text, const char *reason)
{
	struct virtio_device *device = NULL;
	struct error *error = virtio_vsock_create(text, &device);

	assert_non_null(error);
	if (!strstr(error_message(error), reason))
		fail_msg("'%s' does not say '%s'", error_message(error), reason);
	error_free(error);
}

static void bad_options_are_refused_by_name(void **state)
{
	char text[300];

	expect_refusal("path=/tmp/x", "cid");
	expect_refusal("cid=2,path=/tmp/x", "cid");
	expect_refusal("cid=4294967295,path=/tmp/x", "cid");
	expect_refusal("cid=3", "path");
	expect_refusal("cid=3,path=/tmp/x,colour=red", "colour");
	expect_refusal("cid=3,path=/nonexistent/x", "/nonexistent/x");
	snprintf(text, sizeof(text), "cid=3,path=/%0200d", 0);
	expect_refusal(text, "path");
}

static void a_socket_left_behind_is_replaced_and_a_used_one_is_not(void **state)
{
	struct virtio_device *device;
	char text[64];
	int fd;

	unlink("/tmp/godwit-vsock-left");
	fd = unix_socket("/tmp/godwit-vsock-left", true);
	snprintf(text, sizeof(text), "cid=3,path=/tmp/godwit-vsock-left");
	expect_refusal(text, "another program");
	close(fd);
	driver_no_error(virtio_vsock_create(text, &device));
	virtio_device_destroy(device);
	assert_int_equal(access("/tmp/godwit-vsock-left", F_OK), -1);
}

static void move_host(struct vsock *vsock)
{
	struct virtio_device *fresh;
	char text[128];

	/* The old one goes with its socket first; here they must not meet. */
	snprintf(text, sizeof(text), "cid=%d,path=%s%u", CID, vsock->path, ++vsock->moves);
	driver_no_error(virtio_vsock_create(text, &fresh));
	move_to_device(&vsock->driver, fresh);
}

#define EVENT 0x600000

static void offer_event_buffer(struct vsock *vsock)
{
	memset(vsock->driver.ram + EVENT, 0xff, 8);
	driver_offer(&vsock->driver, VSOCK_QUEUE_EVENT, &(struct driver_buffer){EVENT, 4, true}, 1);
	driver_notify(&vsock->driver, VSOCK_QUEUE_EVENT);
}

static void a_load_ends_connections_and_says_so(void **state)
{
	struct vsock vsock;
	int fd;

	setup(&vsock);
	offer_event_buffer(&vsock);
	fd = guest_connects(&vsock);
	assert_false(driver_used(&vsock.driver, VSOCK_QUEUE_EVENT));
	move_host(&vsock);
	assert_int_equal(driver_wait(&vsock.driver, VSOCK_QUEUE_EVENT, NULL), 4);
	assert_int_equal(get_le32(vsock.driver.ram + EVENT), 0);
	expect_end(fd);
	close(fd);
	/* What the guest still sends on it is reset. */
	send_data(&vsock, "lost", 4);
	expect(&vsock, VSOCK_OP_RST);
	expect_silence(&vsock);
	assert_false(driver_used(&vsock.driver, VSOCK_QUEUE_EVENT));
	teardown(&vsock);
}

static void a_transport_reset_waits_for_a_buffer(void **state)
{
	struct vsock vsock;

	setup(&vsock);
	move_host(&vsock);
	move_host(&vsock);
	offer_event_buffer(&vsock);
	assert_int_equal(driver_wait(&vsock.driver, VSOCK_QUEUE_EVENT, NULL), 4);
	assert_int_equal(get_le32(vsock.driver.ram + EVENT), 0);
	offer_event_buffer(&vsock);
	assert_false(driver_used(&vsock.driver, VSOCK_QUEUE_EVENT));
	teardown(&vsock);
}

static void answers_that_wait_for_buffers_are_kept(void **state)
{
	struct vsock vsock;

	setup_without_buffers(&vsock, 0);
	send_data(&vsock, "?", 1);
	send_data(&vsock, "?", 1);
	move_host(&vsock);
	offer_buffers(&vsock, 0, 4);
	expect(&vsock, VSOCK_OP_RST);
	expect(&vsock, VSOCK_OP_RST);
	expect_silence(&vsock);
	teardown(&vsock);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_guest_reaches_a_program_of_the_host),
	    cmocka_unit_test(a_program_of_the_host_reaches_the_guest),
	    cmocka_unit_test(a_program_that_the_guest_refuses_is_disconnected),
	    cmocka_unit_test(a_wrong_greeting_is_disconnected),
	    cmocka_unit_test(a_port_that_nobody_listens_at_is_reset),
	    cmocka_unit_test(a_clean_close_by_the_guest_ends_with_a_reset),
	    cmocka_unit_test(a_close_by_the_host_shuts_both_directions),
	    cmocka_unit_test(half_a_close_leaves_the_other_direction),
	    cmocka_unit_test(what_was_sent_before_a_close_arrives_though_the_host_is_slow),
	    cmocka_unit_test(data_beyond_the_credit_resets_the_connection),
	    cmocka_unit_test(the_host_waits_for_the_guests_room),
	    cmocka_unit_test(packets_of_no_connection_are_reset),
	    cmocka_unit_test(a_packet_from_another_cid_is_dropped),
	    cmocka_unit_test(a_payload_beyond_its_chain_resets_the_connection),
	    cmocka_unit_test(a_chain_shorter_than_a_header_needs_a_reset),
	    cmocka_unit_test(a_receive_buffer_without_room_needs_a_reset),
	    cmocka_unit_test(streams_are_refused_when_only_others_were_negotiated),
	    cmocka_unit_test(a_guest_without_receive_buffers_is_stopped_and_goes_on),
	    cmocka_unit_test(connections_are_bounded),
	    cmocka_unit_test(a_reset_closes_all_connections),
	    cmocka_unit_test(a_paused_device_keeps_what_comes_for_later),
	    cmocka_unit_test(without_a_driver_programs_are_disconnected),
	    cmocka_unit_test(the_configuration_is_the_cid),
	    cmocka_unit_test(bad_options_are_refused_by_name),
	    cmocka_unit_test(a_socket_left_behind_is_replaced_and_a_used_one_is_not),
	    cmocka_unit_test(a_load_ends_connections_and_says_so),
	    cmocka_unit_test(a_transport_reset_waits_for_a_buffer),
	    cmocka_unit_test(answers_that_wait_for_buffers_are_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
