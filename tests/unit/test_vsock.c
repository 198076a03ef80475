/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-vsock between a simulated driver and real unix sockets. */
#include "vsock_fixture.h"

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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
