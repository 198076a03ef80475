/* SPDX-License-Identifier: BSD-2-Clause */
/* A virtio-vsock device between a simulated driver and real unix sockets. */
#ifndef GODWIT_TEST_VSOCK_FIXTURE_H
#define GODWIT_TEST_VSOCK_FIXTURE_H

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

static inline int unix_socket(const char *path, bool server)
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

static inline void offer_buffers(struct vsock *vsock, unsigned int first, unsigned int count)
{
	for (unsigned int i = first; i < first + count; i++)
		driver_offer(&vsock->driver, VSOCK_QUEUE_RX,
			     &(struct driver_buffer){BUFFERS + i % VSOCK_QUEUE_SIZE * BUFFER_SIZE,
						     BUFFER_SIZE, true},
			     1);
	driver_notify(&vsock->driver, VSOCK_QUEUE_RX);
}

static inline void setup_without_buffers(struct vsock *vsock, uint64_t features)
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

static inline void setup(struct vsock *vsock)
{
	setup_without_buffers(vsock, 0);
	offer_buffers(vsock, 0, VSOCK_QUEUE_SIZE);
}

static inline void port_path(const struct vsock *vsock, char *path, size_t size)
{
	snprintf(path, size, "%s_%d", vsock->path, HOST_PORT);
}

static inline void listen_at_host_port(struct vsock *vsock)
{
	char path[80];

	port_path(vsock, path, sizeof(path));
	vsock->listener = unix_socket(path, true);
}

static inline void teardown(struct vsock *vsock)
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

static inline struct vsock_header header_of(uint16_t op, uint32_t size)
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
static inline void send_raw(struct vsock *vsock, const struct vsock_header *header,
			    const void *data, uint32_t chain_size)
{
	struct driver_buffer buffers[] = {{PACKETS, VSOCK_HEADER_SIZE, false},
					  {PACKETS + 0x1000, chain_size, false}};

	vsock_header_encode(header, vsock->driver.ram + PACKETS);
	if (chain_size)
		memcpy(vsock->driver.ram + PACKETS + 0x1000, data, chain_size);
	driver_request(&vsock->driver, VSOCK_QUEUE_TX, buffers, chain_size ? 2 : 1);
}

static inline void send_op(struct vsock *vsock, uint16_t op)
{
	struct vsock_header header = header_of(op, 0);

	send_raw(vsock, &header, NULL, 0);
}

static inline void send_data(struct vsock *vsock, const void *data, uint32_t size)
{
	struct vsock_header header = header_of(VSOCK_OP_RW, size);

	send_raw(vsock, &header, data, size);
}

static inline void send_shutdown(struct vsock *vsock, uint32_t flags)
{
	struct vsock_header header = header_of(VSOCK_OP_SHUTDOWN, 0);

	header.flags = flags;
	send_raw(vsock, &header, NULL, 0);
}

/* The next packet for the guest; *payload points to what is behind the header. */
static inline struct vsock_header next_packet(struct vsock *vsock, const uint8_t **payload)
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

static inline void expect(struct vsock *vsock, uint16_t op)
{
	struct vsock_header header = next_packet(vsock, NULL);

	assert_int_equal(header.op, op);
	assert_int_equal(header.src_cid, VSOCK_HOST_CID);
	assert_int_equal(header.dst_cid, CID);
}

static inline void expect_silence(struct vsock *vsock)
{
	usleep(20000);
	assert_false(driver_used(&vsock->driver, VSOCK_QUEUE_RX));
}

/* The guest connects; the descriptor of the host's program. */
static inline int guest_connects(struct vsock *vsock)
{
	if (vsock->listener < 0)
		listen_at_host_port(vsock);
	send_op(vsock, VSOCK_OP_REQUEST);
	expect(vsock, VSOCK_OP_RESPONSE);
	return accept(vsock->listener, NULL, NULL);
}

static inline void expect_bytes(int fd, const char *text)
{
	char got[64] = {0};
	size_t done = 0;

	while (done < strlen(text)) {
		struct pollfd ready = {.fd = fd, .events = POLLIN};
		ssize_t size;

		assert_int_equal(poll(&ready, 1, WAIT_MAX_MS), 1);
		size = recv(fd, got + done, strlen(text) - done, 0);
		assert_true(size > 0);
		done += (size_t)size;
	}
	assert_string_equal(got, text);
}

static inline void expect_end(int fd)
{
	struct pollfd ready = {.fd = fd, .events = POLLIN};
	char byte;

	assert_int_equal(poll(&ready, 1, WAIT_MAX_MS), 1);
	assert_int_equal(recv(fd, &byte, 1, 0), 0);
}

static inline json_int_t connections(struct vsock *vsock)
{
	json_t *report = virtio_device_describe(vsock->driver.device);
	json_int_t count = json_integer_value(json_object_get(report, "connections"));

	json_decref(report);
	return count;
}

#endif
