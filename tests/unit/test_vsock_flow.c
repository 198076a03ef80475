/* SPDX-License-Identifier: BSD-2-Clause */
/* vsock without a device: the packet codec, connections and their credit, the buffer, the greeting.
 */
#include <string.h>
#include <sys/socket.h>

#include "base/checked.h"
#include "cmocka_prelude.h"
#include "virtio/vsock_buffer.h"
#include "virtio/vsock_flow.h"
#include "virtio/vsock_host.h"

#define CID 42

static struct vsock_header packet(enum vsock_op op, uint32_t size, uint32_t flags)
{
	return (struct vsock_header){
	    .src_cid = CID,
	    .dst_cid = VSOCK_HOST_CID,
	    .src_port = 1000,
	    .dst_port = 2000,
	    .size = size,
	    .type = VSOCK_TYPE_STREAM,
	    .op = op,
	    .flags = flags,
	    .buf_alloc = 10000,
	};
}

static enum vsock_verdict receive(struct vsock_flow *flow, enum vsock_op op, uint32_t size,
				  uint32_t flags)
{
	struct vsock_header header = packet(op, size, flags);

	return vsock_flow_receive(flow, &header);
}

/* Sends what is next; its header. */
static struct vsock_header send_next(struct vsock_flow *flow, uint32_t size)
{
	struct vsock_header header;

	vsock_flow_send(flow, vsock_flow_next(flow), size, CID, &header);
	return header;
}

/* A connection that the guest opened, with the answer sent. */
static struct vsock_flow established(void)
{
	struct vsock_header request = packet(VSOCK_OP_REQUEST, 0, 0);
	struct vsock_flow flow;

	vsock_flow_accept(&flow, &request);
	send_next(&flow, 0);
	return flow;
}

/* --- Codec --- */

static void a_header_survives_the_wire(void **state)
{
	struct vsock_header header = {.src_cid = 0x0102030405060708,
				      .dst_cid = 2,
				      .src_port = 3,
				      .dst_port = 4,
				      .size = 5,
				      .type = 6,
				      .op = 7,
				      .flags = 8,
				      .buf_alloc = 9,
				      .fwd_cnt = 10},
			    again;
	uint8_t wire[VSOCK_HEADER_SIZE];

	vsock_header_encode(&header, wire);
	vsock_header_decode(wire, &again);
	/* Without the padding at its end. */
	assert_memory_equal(&header, &again,
			    offsetof(struct vsock_header, fwd_cnt) + sizeof(header.fwd_cnt));
	assert_int_equal(wire[0], 8); /* little-endian */
	assert_int_equal(wire[24], 5);
	assert_int_equal(wire[30], 7);
	assert_int_equal(wire[40], 10);
}

static void a_reset_goes_back_where_the_packet_came_from(void **state)
{
	struct vsock_header from = packet(VSOCK_OP_RW, 10, 0), reply;

	vsock_header_reset(&from, &reply);
	assert_int_equal(reply.op, VSOCK_OP_RST);
	assert_int_equal(reply.src_port, 2000);
	assert_int_equal(reply.dst_port, 1000);
	assert_int_equal(reply.dst_cid, CID);
	assert_int_equal(reply.size, 0);
}

/* --- Life cycle --- */

static void a_request_is_answered(void **state)
{
	struct vsock_header request = packet(VSOCK_OP_REQUEST, 0, 0), answer;
	struct vsock_flow flow;

	vsock_flow_accept(&flow, &request);
	answer = send_next(&flow, 0);
	assert_int_equal(answer.op, VSOCK_OP_RESPONSE);
	assert_int_equal(answer.src_port, 2000);
	assert_int_equal(answer.dst_port, 1000);
	assert_int_equal(answer.buf_alloc, VSOCK_BUFFER_SIZE);
	assert_int_equal(vsock_flow_next(&flow), VSOCK_OP_INVALID);
}

static void the_host_asks_and_the_guest_accepts(void **state)
{
	struct vsock_flow flow;

	vsock_flow_request(&flow, 1000, 2000);
	assert_int_equal(send_next(&flow, 0).op, VSOCK_OP_REQUEST);
	assert_int_equal(receive(&flow, VSOCK_OP_RESPONSE, 0, 0), VSOCK_CONNECTED);
	assert_int_equal(flow.state, VSOCK_ESTABLISHED);
}

static void an_answer_before_the_request_is_refused(void **state)
{
	struct vsock_flow flow;

	vsock_flow_request(&flow, 1000, 2000);
	assert_int_equal(receive(&flow, VSOCK_OP_RESPONSE, 0, 0), VSOCK_REFUSE);
}

static void what_does_not_fit_the_state_is_refused(void **state)
{
	struct vsock_flow flow = established();

	assert_int_equal(receive(&flow, VSOCK_OP_REQUEST, 0, 0), VSOCK_REFUSE);
	assert_int_equal(receive(&flow, VSOCK_OP_RESPONSE, 0, 0), VSOCK_REFUSE);
	assert_int_equal(receive(&flow, VSOCK_OP_INVALID, 0, 0), VSOCK_REFUSE);
	assert_int_equal(receive(&flow, 77, 0, 0), VSOCK_REFUSE);
	vsock_flow_request(&flow, 1000, 2000);
	send_next(&flow, 0);
	assert_int_equal(receive(&flow, VSOCK_OP_RW, 1, 0), VSOCK_REFUSE);
	assert_int_equal(receive(&flow, VSOCK_OP_SHUTDOWN, 0, 3), VSOCK_REFUSE);
}

static void a_reset_needs_no_answer(void **state)
{
	struct vsock_flow flow = established();

	assert_int_equal(receive(&flow, VSOCK_OP_RST, 0, 0), VSOCK_GONE);
}

static void shutdown_flags_stay(void **state)
{
	struct vsock_flow flow = established();

	assert_int_equal(receive(&flow, VSOCK_OP_SHUTDOWN, 0, VSOCK_SHUTDOWN_SEND), VSOCK_SHUT);
	receive(&flow, VSOCK_OP_SHUTDOWN, 0, 0);
	assert_int_equal(flow.guest_shutdown, VSOCK_SHUTDOWN_SEND);
	receive(&flow, VSOCK_OP_SHUTDOWN, 0, 0xffffffff);
	assert_int_equal(flow.guest_shutdown, VSOCK_SHUTDOWN_BOTH);
}

static void data_after_the_end_of_data_is_refused(void **state)
{
	struct vsock_flow flow = established();

	receive(&flow, VSOCK_OP_SHUTDOWN, 0, VSOCK_SHUTDOWN_SEND);
	assert_int_equal(receive(&flow, VSOCK_OP_RW, 1, 0), VSOCK_REFUSE);
}

static void a_half_closed_connection_goes_on(void **state)
{
	struct vsock_flow flow = established();
	struct vsock_header header;

	vsock_flow_shut_host(&flow, VSOCK_SHUTDOWN_SEND);
	header = send_next(&flow, 0);
	assert_int_equal(header.op, VSOCK_OP_SHUTDOWN);
	assert_int_equal(header.flags, VSOCK_SHUTDOWN_SEND);
	assert_int_equal(flow.state, VSOCK_ESTABLISHED);
	assert_int_equal(receive(&flow, VSOCK_OP_RW, 1, 0), VSOCK_DATA);
}

static void a_closed_connection_waits_for_the_reset(void **state)
{
	struct vsock_flow flow = established();

	vsock_flow_shut_host(&flow, VSOCK_SHUTDOWN_BOTH);
	assert_int_equal(send_next(&flow, 0).flags, VSOCK_SHUTDOWN_BOTH);
	assert_int_equal(flow.state, VSOCK_CLOSING);
	assert_int_equal(receive(&flow, VSOCK_OP_RW, 100, 0), VSOCK_NOTHING);
	assert_int_equal(vsock_flow_room(&flow), VSOCK_BUFFER_SIZE);
	assert_int_equal(receive(&flow, VSOCK_OP_RST, 0, 0), VSOCK_GONE);
}

static void data_goes_before_the_shutdown(void **state)
{
	struct vsock_flow flow = established();

	vsock_flow_shut_host(&flow, VSOCK_SHUTDOWN_SEND);
	flow.pending |= VSOCK_SEND_DATA;
	assert_int_equal(vsock_flow_next(&flow), VSOCK_OP_RW);
	flow.pending &= ~VSOCK_SEND_DATA;
	assert_int_equal(vsock_flow_next(&flow), VSOCK_OP_SHUTDOWN);
}

/* --- Credit --- */

static void data_beyond_the_credit_is_refused(void **state)
{
	struct vsock_flow flow = established();

	assert_int_equal(receive(&flow, VSOCK_OP_RW, VSOCK_BUFFER_SIZE, 0), VSOCK_DATA);
	assert_int_equal(receive(&flow, VSOCK_OP_RW, 1, 0), VSOCK_REFUSE);
	vsock_flow_forwarded(&flow, 1);
	assert_int_equal(receive(&flow, VSOCK_OP_RW, 1, 0), VSOCK_DATA);
	assert_int_equal(receive(&flow, VSOCK_OP_RW, UINT32_MAX, 0), VSOCK_REFUSE);
}

static void the_guest_is_told_before_it_runs_dry(void **state)
{
	struct vsock_flow flow = established();

	receive(&flow, VSOCK_OP_RW, VSOCK_BUFFER_SIZE, 0);
	vsock_flow_forwarded(&flow, VSOCK_BUFFER_SIZE / 2 - 1);
	assert_int_equal(vsock_flow_next(&flow), VSOCK_OP_INVALID);
	vsock_flow_forwarded(&flow, 1);
	assert_int_equal(vsock_flow_next(&flow), VSOCK_OP_CREDIT_UPDATE);
	assert_int_equal(send_next(&flow, 0).fwd_cnt, VSOCK_BUFFER_SIZE / 2);
	assert_int_equal(vsock_flow_next(&flow), VSOCK_OP_INVALID);
}

static void a_credit_request_is_answered(void **state)
{
	struct vsock_flow flow = established();

	assert_int_equal(receive(&flow, VSOCK_OP_CREDIT_REQUEST, 0, 0), VSOCK_CREDIT);
	assert_int_equal(send_next(&flow, 0).op, VSOCK_OP_CREDIT_UPDATE);
}

static void what_is_sent_uses_up_the_guests_room(void **state)
{
	struct vsock_flow flow = established();
	struct vsock_header update = packet(VSOCK_OP_CREDIT_UPDATE, 0, 0);

	assert_int_equal(vsock_flow_peer_room(&flow), 10000);
	flow.pending |= VSOCK_SEND_DATA;
	send_next(&flow, 4000);
	assert_int_equal(vsock_flow_peer_room(&flow), 6000);
	update.fwd_cnt = 4000;
	vsock_flow_receive(&flow, &update);
	assert_int_equal(vsock_flow_peer_room(&flow), 10000);
}

static void counters_wrap(void **state)
{
	struct vsock_flow flow = established();
	struct vsock_header update = packet(VSOCK_OP_CREDIT_UPDATE, 0, 0);

	flow.tx_count = 100;
	update.fwd_cnt = UINT32_MAX - 99; /* 200 before */
	vsock_flow_receive(&flow, &update);
	assert_int_equal(vsock_flow_peer_room(&flow), 9800);
	flow.rx_count = 10;
	flow.fwd_count = UINT32_MAX - 9; /* 20 before */
	assert_int_equal(vsock_flow_room(&flow), VSOCK_BUFFER_SIZE - 20);
}

static void a_guest_that_contradicts_itself_gets_nothing(void **state)
{
	struct vsock_flow flow = established();
	struct vsock_header update = packet(VSOCK_OP_CREDIT_UPDATE, 0, 0);

	update.fwd_cnt = 1; /* more than was sent */
	vsock_flow_receive(&flow, &update);
	assert_int_equal(vsock_flow_peer_room(&flow), 0);
	flow.tx_count = 5000;
	update.fwd_cnt = 0;
	update.buf_alloc = 4999; /* less than it was given already */
	vsock_flow_receive(&flow, &update);
	assert_int_equal(vsock_flow_peer_room(&flow), 0);
}

/* --- Buffer --- */

static void the_buffer_wraps_and_keeps_the_order(void **state)
{
	static uint8_t bytes[VSOCK_BUFFER_SIZE], got[VSOCK_BUFFER_SIZE];
	struct vsock_buffer buffer = {.bytes = bytes, .start = VSOCK_BUFFER_SIZE - 3};
	struct iovec iov[2] = {{(char *)"abcd", 4}, {(char *)"efg", 3}};
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	vsock_buffer_add(&buffer, iov, 2);
	assert_int_equal(buffer.used, 7);
	assert_int_equal(vsock_buffer_flush(&buffer, ends[0]), 7);
	assert_int_equal(buffer.used, 0);
	assert_int_equal(recv(ends[1], got, sizeof(got), 0), 7);
	assert_memory_equal(got, "abcdefg", 7);
	close(ends[0]);
	close(ends[1]);
}

static void a_flush_to_nobody_fails(void **state)
{
	static uint8_t bytes[VSOCK_BUFFER_SIZE];
	struct vsock_buffer buffer = {.bytes = bytes, .used = 5};
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	close(ends[1]);
	assert_int_equal(vsock_buffer_flush(&buffer, ends[0]), -EPIPE);
	close(ends[0]);
}

/* --- Greeting --- */

static int greet(const char *text, uint32_t *port, char *rest, size_t size)
{
	struct vsock_greeting greeting = {0};
	int ends[2], result;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	assert_int_equal(send(ends[1], text, strlen(text), 0), strlen(text));
	result = vsock_host_greeting(ends[0], &greeting, port);
	memset(rest, 0, size);
	recv(ends[0], rest, size - 1, MSG_DONTWAIT);
	close(ends[0]);
	close(ends[1]);
	return result;
}

static void a_greeting_names_a_port_and_leaves_the_rest(void **state)
{
	char rest[16];
	uint32_t port;

	assert_int_equal(greet("CONNECT 1234\nhello", &port, rest, sizeof(rest)), 1);
	assert_int_equal(port, 1234);
	assert_string_equal(rest, "hello");
	assert_int_equal(greet("CONNECT 4294967295\n", &port, rest, sizeof(rest)), 1);
	assert_int_equal(port, UINT32_MAX);
}

static void a_greeting_may_come_in_pieces(void **state)
{
	struct vsock_greeting greeting = {0};
	uint32_t port;
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	assert_int_equal(vsock_host_greeting(ends[0], &greeting, &port), 0);
	assert_int_equal(send(ends[1], "CONN", 4, 0), 4);
	assert_int_equal(vsock_host_greeting(ends[0], &greeting, &port), 0);
	assert_int_equal(send(ends[1], "ECT 7\n", 6, 0), 6);
	assert_int_equal(vsock_host_greeting(ends[0], &greeting, &port), 1);
	assert_int_equal(port, 7);
	close(ends[1]);
	assert_int_equal(vsock_host_greeting(ends[0], &greeting, &port), -1);
	close(ends[0]);
}

static void other_greetings_are_refused(void **state)
{
	static const char *const lines[] = {"HELLO 1\n",
					    "CONNECT\n",
					    "CONNECT \n",
					    "CONNECT x\n",
					    "CONNECT 4294967296\n",
					    "CONNECT -1\n",
					    "\n",
					    "CONNECT 00000000000000000000000000000000001\n"};
	char rest[64];
	uint32_t port;

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
		assert_int_equal(greet(lines[i], &port, rest, sizeof(rest)), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_header_survives_the_wire),
	    cmocka_unit_test(a_reset_goes_back_where_the_packet_came_from),
	    cmocka_unit_test(a_request_is_answered),
	    cmocka_unit_test(the_host_asks_and_the_guest_accepts),
	    cmocka_unit_test(an_answer_before_the_request_is_refused),
	    cmocka_unit_test(what_does_not_fit_the_state_is_refused),
	    cmocka_unit_test(a_reset_needs_no_answer),
	    cmocka_unit_test(shutdown_flags_stay),
	    cmocka_unit_test(data_after_the_end_of_data_is_refused),
	    cmocka_unit_test(a_half_closed_connection_goes_on),
	    cmocka_unit_test(a_closed_connection_waits_for_the_reset),
	    cmocka_unit_test(data_goes_before_the_shutdown),
	    cmocka_unit_test(data_beyond_the_credit_is_refused),
	    cmocka_unit_test(the_guest_is_told_before_it_runs_dry),
	    cmocka_unit_test(a_credit_request_is_answered),
	    cmocka_unit_test(what_is_sent_uses_up_the_guests_room),
	    cmocka_unit_test(counters_wrap),
	    cmocka_unit_test(a_guest_that_contradicts_itself_gets_nothing),
	    cmocka_unit_test(the_buffer_wraps_and_keeps_the_order),
	    cmocka_unit_test(a_flush_to_nobody_fails),
	    cmocka_unit_test(a_greeting_names_a_port_and_leaves_the_rest),
	    cmocka_unit_test(a_greeting_may_come_in_pieces),
	    cmocka_unit_test(other_greetings_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
