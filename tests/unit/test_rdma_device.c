/* SPDX-License-Identifier: BSD-2-Clause */
/* Two guests with RDMA devices: what moves between their memories, and what they are told of it. */
#include "rdma_device.h"

#define AT 0x20000U /* of the other guest's data */

static void sends_arrive(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	struct completion completion;

	post_receive(&guests[1], &guests[1].rq, 77, AT, 10000);
	new_work(&guests[0], WR_SEND, 5, 0, 5000);
	post_work(&guests[0]);
	expect(&guests[0], 5, 0);
	completion = take_completion(&guests[1]);
	assert_int_equal(completion.id, 77);
	assert_int_equal(completion.status, 0);
	assert_int_equal(completion.opcode, 128);
	assert_int_equal(completion.bytes, 5000);
	assert_int_equal(completion.qpn, guests[1].qpn);
	assert_int_equal(completion.flags, 0);
	assert_memory_equal(at(&guests[1], DATA + AT), at(&guests[0], DATA), 5000);
	guests_destroy(guests);
}

static void writes_and_reads_reach_the_other_memory(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	struct completion completion;

	put_remote(new_work(&guests[0], WR_WRITE, 1, 0, 100000), DATA + AT, guests[1].key);
	post_work(&guests[0]);
	completion = take_completion(&guests[0]);
	assert_int_equal(completion.status, 0);
	assert_int_equal(completion.opcode, 1);
	assert_memory_equal(at(&guests[1], DATA + AT), at(&guests[0], DATA), 100000);
	put_remote(new_work(&guests[0], WR_READ, 2, AT, 70001), DATA + 3, guests[1].key);
	post_work(&guests[0]);
	completion = take_completion(&guests[0]);
	assert_int_equal(completion.status, 0);
	assert_int_equal(completion.opcode, 2);
	assert_int_equal(completion.bytes, 70001);
	assert_memory_equal(at(&guests[0], DATA + AT), at(&guests[1], DATA + 3), 70001);
	guests_destroy(guests);
}

static void atomics_reach_the_other_memory(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	uint8_t *work;

	put_le64(at(&guests[1], DATA), 40);
	work = new_work(&guests[0], WR_FADD, 1, AT, 8);
	put_le64(work + 24, DATA);
	put_le64(work + 32, 2);
	put_le32(work + 48, guests[1].key);
	post_work(&guests[0]);
	expect(&guests[0], 1, 0);
	assert_int_equal(get_le64(at(&guests[0], DATA + AT)), 40);
	assert_int_equal(get_le64(at(&guests[1], DATA)), 42);
	work = new_work(&guests[0], WR_CAS, 2, AT, 8);
	put_le64(work + 24, DATA);
	put_le64(work + 32, 42);
	put_le64(work + 40, 99);
	put_le32(work + 48, guests[1].key);
	post_work(&guests[0]);
	expect(&guests[0], 2, 0);
	assert_int_equal(get_le64(at(&guests[0], DATA + AT)), 42);
	assert_int_equal(get_le64(at(&guests[1], DATA)), 99);
	guests_destroy(guests);
}

static void immediate_data_arrives_as_it_is(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	struct completion completion;
	uint8_t *work;

	post_receive(&guests[1], &guests[1].rq, 77, AT, 100);
	work = new_work(&guests[0], WR_WRITE_IMM, 5, 0, 50);
	put_remote(work, DATA + AT, guests[1].key);
	memcpy(work + 20, "abcd", 4);
	post_work(&guests[0]);
	completion = take_completion(&guests[1]);
	assert_int_equal(completion.opcode, 129);
	assert_int_equal(completion.flags, 2);
	assert_int_equal(completion.bytes, 50);
	assert_memory_equal(completion.immediate, "abcd", 4);
	expect(&guests[0], 5, 0);
	guests_destroy(guests);
}

static void inline_data_arrives(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	uint8_t *work = new_work(&guests[0], WR_WRITE, 1, 0, 200);

	put_remote(work, DATA + AT, guests[1].key);
	put_le32(work + 16, SIGNALED | INLINE);
	memset(work + 208, 0x5a, 200);
	post_work(&guests[0]);
	expect(&guests[0], 1, 0);
	for (int i = 0; i < 200; i++)
		assert_int_equal(at(&guests[1], DATA + AT)[i], 0x5a);
	guests_destroy(guests);
}

/* More than the engine holds at once, and more than the queue has slots. */
static void many_work_requests_complete_in_their_order(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	uint64_t posted = 0, completed = 0;

	while (completed < 500) {
		while (posted < 500 && posted < completed + 200 &&
		       (guests[0].sq.own + 1) % SLOTS !=
			   __atomic_load_n(index_of(&guests[0], &guests[0].sq, 256),
					   __ATOMIC_ACQUIRE)) {
			put_remote(new_work(&guests[0], WR_WRITE, posted++, 0, 8), DATA + AT,
				   guests[1].key);
			add_element(&guests[0], &guests[0].sq);
		}
		kick(&guests[0], 1, guests[0].qpn);
		expect(&guests[0], completed++, 0);
	}
	guests_destroy(guests);
}

static void work_without_a_signal_frees_its_slot(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	uint8_t *work = new_work(&guests[0], WR_WRITE, 1, 0, 8);

	put_remote(work, DATA + AT, guests[1].key);
	put_le32(work + 16, 0);
	post_work(&guests[0]);
	for (int i = 0; *index_of(&guests[0], &guests[0].sq, 256) != 1 && i < WAIT_MAX_MS; i++)
		usleep(1000);
	assert_int_equal(
	    __atomic_load_n(index_of(&guests[0], &guests[0].sq, 256), __ATOMIC_ACQUIRE), 1);
	assert_false(has_completion(&guests[0]));
	guests_destroy(guests);
}

static void wrong_key_is_refused_by_the_other_end(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);

	put_remote(new_work(&guests[0], WR_WRITE, 1, 0, 8), DATA, guests[1].key + 256);
	post_work(&guests[0]);
	expect(&guests[0], 1, 10);
	expect_event(&guests[1], 3, guests[1].qpn);
	assert_int_equal(qp_state(&guests[0]), STATE_ERR);
	assert_int_equal(qp_state(&guests[1]), STATE_ERR);
	guests_destroy(guests);
}

static void unreliable_writes_arrive(void **state)
{
	struct guest *guests = guests_create(TYPE_UC);
	uint8_t *work = new_work(&guests[0], WR_WRITE_IMM, 5, 0, 3000);

	post_receive(&guests[1], &guests[1].rq, 77, AT, 100);
	put_remote(work, DATA + AT, guests[1].key);
	post_work(&guests[0]);
	expect(&guests[0], 5, 0);
	expect(&guests[1], 77, 0);
	assert_memory_equal(at(&guests[1], DATA + AT), at(&guests[0], DATA), 3000);
	guests_destroy(guests);
}

/* --- Datagrams --------------------------------------------------------------------------------- */

static void send_datagram(struct guest *from, const struct guest *to, uint8_t gid_index,
			  uint32_t queue_key)
{
	uint8_t *work = new_work(from, WR_SEND, 9, 0, 100);

	put_le32(work + 24, to->qpn);
	put_le32(work + 28, queue_key);
	memcpy(work + 64, to->address, 16);
	work[84] = gid_index;
	post_work(from);
	expect(from, 9, 0);
}

static void datagrams_arrive_with_their_header(void **state)
{
	struct guest *guests = guests_create(TYPE_UD);
	struct completion completion;

	post_receive(&guests[1], &guests[1].rq, 77, AT, 140);
	send_datagram(&guests[0], &guests[1], 1, 0x11111111);
	completion = take_completion(&guests[1]);
	assert_int_equal(completion.id, 77);
	assert_int_equal(completion.bytes, 140);
	assert_int_equal(completion.flags, 1);
	assert_int_equal(completion.source, guests[0].qpn);
	assert_int_equal(at(&guests[1], DATA + AT)[20], 0x45);
	assert_memory_equal(at(&guests[1], DATA + AT + 32), guests[0].address + 12, 4);
	assert_memory_equal(at(&guests[1], DATA + AT + 40), at(&guests[0], DATA), 100);
	guests_destroy(guests);
}

static void general_services_have_number_1(void **state)
{
	struct guest *guests = guests_create(TYPE_GSI);

	assert_int_equal(guests[0].qpn, 1);
	assert_int_equal(guests[1].qpn, 1);
	post_receive(&guests[1], &guests[1].rq, 77, AT, 140);
	send_datagram(&guests[0], &guests[1], 1, 0x11111111);
	expect(&guests[1], 77, 0);
	qp_request(&guests[0], TYPE_GSI, new_command(&guests[0], CREATE_QP));
	assert_int_equal(send_command(&guests[0], 96, 16), EEXIST);
	assert_int_equal(simple_command(&guests[0], DESTROY_QP, 1), 0);
	assert_int_equal(make_qp(&guests[0], TYPE_GSI), 1);
	guests_destroy(guests);
}

static void datagrams_from_an_address_that_is_not_there_are_lost(void **state)
{
	struct guest *guests = guests_create(TYPE_UD);

	post_receive(&guests[1], &guests[1].rq, 77, AT, 140);
	send_datagram(&guests[0], &guests[1], 5, 0x11111111);
	send_datagram(&guests[0], &guests[1], 255, 0x11111111);
	assert_int_equal(set_gid(&guests[0], 5, guests[1].address), 0);
	send_datagram(&guests[0], &guests[1], 5, 0x11111111);
	send_datagram(&guests[0], &guests[1], 0, 0x11111111);
	expect(&guests[1], 77, 0);
	assert_false(has_completion(&guests[1]));
	guests_destroy(guests);
}

static void datagrams_to_an_address_that_was_deleted_are_lost(void **state)
{
	struct guest *guests = guests_create(TYPE_UD);

	assert_int_equal(simple_command(&guests[1], DELETE_GID, 0), 0);
	assert_int_equal(simple_command(&guests[1], DELETE_GID, 1), 0);
	post_receive(&guests[1], &guests[1].rq, 77, AT, 140);
	send_datagram(&guests[0], &guests[1], 1, 0x11111111);
	assert_int_equal(set_gid(&guests[1], 3, guests[1].address), 0);
	post_receive(&guests[1], &guests[1].rq, 78, AT, 140);
	send_datagram(&guests[0], &guests[1], 1, 0x11111111);
	expect(&guests[1], 77, 0);
	assert_false(has_completion(&guests[1]));
	guests_destroy(guests);
}

/* --- Events ------------------------------------------------------------------------------------ */

static void arm(struct guest *guest, uint32_t value)
{
	__atomic_store_n(index_of(guest, &guest->cq, 8), value, __ATOMIC_SEQ_CST);
}

static void armed_queue_tells_once(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);

	arm(&guests[0], 2);
	for (uint64_t i = 0; i < 2; i++) {
		put_remote(new_work(&guests[0], WR_WRITE, i, 0, 8), DATA + AT, guests[1].key);
		post_work(&guests[0]);
		expect(&guests[0], i, 0);
	}
	expect_event(&guests[0], 0x100, guests[0].cqn);
	assert_int_equal(*index_of(&guests[0], &guests[0].cq, 8), 0);
	assert_false(driver_used(&guests[0].driver, EVENTS));
	guests_destroy(guests);
}

static void queue_armed_for_solicited_completions_waits_for_one(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	uint8_t *work;

	arm(&guests[1], 1);
	post_receive(&guests[1], &guests[1].rq, 1, AT, 100);
	post_receive(&guests[1], &guests[1].rq, 2, AT, 100);
	new_work(&guests[0], WR_SEND, 1, 0, 8);
	post_work(&guests[0]);
	expect(&guests[1], 1, 0);
	assert_int_equal(*index_of(&guests[1], &guests[1].cq, 8), 1);
	work = new_work(&guests[0], WR_SEND, 2, 0, 8);
	put_le32(work + 16, SIGNALED | SOLICITED);
	post_work(&guests[0]);
	expect(&guests[1], 2, 0);
	expect_event(&guests[1], 0x100, guests[1].cqn);
	guests_destroy(guests);
}

static void events_wait_for_buffers(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	uint32_t cqns[12];
	struct queue cqs[12];

	/* Eight buffers there are. */
	for (uint32_t i = 0; i < 12; i++) {
		struct guest *guest = &guests[0];
		uint8_t *request;

		cqns[i] = make_cq(guest, &cqs[i], 4);
		request = new_command(guest, CREATE_QP);
		qp_request(guest, TYPE_UD, request);
		put_le32(request + 16, cqns[i]);
		guest->qpn = make(guest, 96);
		bring_up(guest, &guests[1], TYPE_UD);
		__atomic_store_n(index_of(guest, &cqs[i], 8), 2, __ATOMIC_SEQ_CST);
		new_work(guest, WR_SEND, 1, 0, 8);
		post_work(guest);
	}
	for (uint32_t i = 0; i < 12; i++)
		expect_event(&guests[0], 0x100, cqns[i]);
	guests_destroy(guests);
}

static void first_packet_for_a_pair_in_rtr_is_told(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);

	assert_int_equal(modify(&guests[1], &guests[0], 0, 1, STATE_RESET), 0);
	assert_int_equal(modify(&guests[1], &guests[0], 0, MASK_INIT, STATE_INIT), 0);
	assert_int_equal(modify(&guests[1], &guests[0], guests[0].qpn, MASK_RTR, STATE_RTR), 0);
	put_remote(new_work(&guests[0], WR_WRITE, 1, 0, 8), DATA + AT, guests[1].key);
	post_work(&guests[0]);
	expect(&guests[0], 1, 0);
	expect_event(&guests[1], 4, guests[1].qpn);
	guests_destroy(guests);
}

static void full_completion_queue_overruns(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);

	guests[0].cqn = make_cq(&guests[0], &guests[0].cq, 4);
	guests[0].qpn = make_qp(&guests[0], TYPE_RC);
	guests[1].qpn = make_qp(&guests[1], TYPE_RC);
	bring_up(&guests[0], &guests[1], TYPE_RC);
	bring_up(&guests[1], &guests[0], TYPE_RC);
	for (uint64_t i = 0; i < 4; i++) {
		put_remote(new_work(&guests[0], WR_WRITE, i, 0, 8), DATA + AT, guests[1].key);
		add_element(&guests[0], &guests[0].sq);
	}
	kick(&guests[0], 1, guests[0].qpn);
	expect_event(&guests[0], 0, guests[0].cqn);
	expect_event(&guests[0], 1, guests[0].qpn);
	for (uint64_t i = 0; i < 3; i++)
		expect(&guests[0], i, 0);
	assert_false(has_completion(&guests[0]));
	guests_destroy(guests);
}

/* --- Errors and resets ------------------------------------------------------------------------- */

static void failed_pair_flushes_what_is_posted_later_too(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);

	post_receive(&guests[0], &guests[0].rq, 1, AT, 100);
	assert_int_equal(modify(&guests[0], &guests[1], 0, 1, STATE_ERR), 0);
	expect(&guests[0], 1, 5);
	new_work(&guests[0], WR_SEND, 2, 0, 8);
	post_work(&guests[0]);
	expect(&guests[0], 2, 5);
	post_receive(&guests[0], &guests[0].rq, 3, AT, 100);
	kick(&guests[0], 2, guests[0].qpn);
	expect(&guests[0], 3, 5);
	guests_destroy(guests);
}

static void work_that_is_posted_early_waits(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);

	assert_int_equal(modify(&guests[0], &guests[1], 0, 1, STATE_RESET), 0);
	assert_int_equal(modify(&guests[1], &guests[0], 0, 1, STATE_RESET), 0);
	put_remote(new_work(&guests[0], WR_WRITE, 4, 0, 8), DATA + AT, guests[1].key);
	post_work(&guests[0]);
	assert_false(has_completion(&guests[0]));
	bring_up(&guests[1], &guests[0], TYPE_RC);
	bring_up(&guests[0], &guests[1], TYPE_RC);
	kick(&guests[0], 1, guests[0].qpn);
	expect(&guests[0], 4, 0);
	guests_destroy(guests);
}

static void reset_pair_forgets_what_was_posted(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);

	post_receive(&guests[0], &guests[0].rq, 1, AT, 100);
	post_receive(&guests[0], &guests[0].rq, 2, AT, 100);
	assert_int_equal(modify(&guests[0], &guests[1], 0, 1, STATE_RESET), 0);
	assert_int_equal(*index_of(&guests[0], &guests[0].rq, 256), 2);
	assert_false(has_completion(&guests[0]));
	guests_destroy(guests);
}

static void paused_device_takes_its_packets_later(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);

	virtio_device_quiesce(guests[1].driver.device);
	put_remote(new_work(&guests[0], WR_WRITE, 4, 0, 8), DATA + AT, guests[1].key);
	post_work(&guests[0]);
	usleep(50000);
	assert_false(has_completion(&guests[0]));
	assert_memory_not_equal(at(&guests[1], DATA + AT), at(&guests[0], DATA), 8);
	virtio_device_resume(guests[1].driver.device);
	expect(&guests[0], 4, 0);
	assert_memory_equal(at(&guests[1], DATA + AT), at(&guests[0], DATA), 8);
	guests_destroy(guests);
}

static void device_begins_anew_after_a_reset(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);

	post_receive(&guests[1], &guests[1].rq, 1, AT, 100);
	for (int i = 0; i < 2; i++) {
		driver_set_status(&guests[i].driver, 0);
		guest_start(&guests[i]);
		guests[i].qpn = make_qp(&guests[i], TYPE_RC);
	}
	bring_up(&guests[0], &guests[1], TYPE_RC);
	bring_up(&guests[1], &guests[0], TYPE_RC);
	put_remote(new_work(&guests[0], WR_WRITE, 4, 0, 8), DATA + AT, guests[1].key);
	post_work(&guests[0]);
	expect(&guests[0], 4, 0);
	guests_destroy(guests);
}

/* --- Memory ------------------------------------------------------------------------------------ */

/* Pages in the opposite order, in a list that takes two commands. */
static uint32_t make_backward_mr(struct guest *guest, uint64_t iova)
{
	uint8_t *request = new_command(guest, CREATE_MR);
	uint32_t key;

	put_le32(request + 8, guest->pd);
	put_le32(request + 12, 7);
	put_le32(request + 16, 1);
	put_le32(request + 20, 2);
	put_le64(request + 24, iova);
	put_le64(request + 32, 3 * 4096 - 100);
	put_run(request + 48, DATA + 0x8000 + 100, 4096 - 100);
	put_run(request + 64, DATA + 0x7000, 4096);
	key = make(guest, 80);
	request = new_command(guest, EXTEND_MR);
	put_le32(request + 8, key);
	put_le32(request + 12, 1);
	put_run(request + 16, DATA + 0x6000, 4096);
	assert_int_equal(send_command(guest, 32, 8), 0);
	return key;
}

static void region_may_be_of_scattered_pages(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	uint64_t iova = UINT64_C(0x7fff12340064);
	uint32_t key = make_backward_mr(&guests[1], iova);

	put_remote(new_work(&guests[0], WR_WRITE, 4, 0, 3 * 4096 - 100), iova, key);
	post_work(&guests[0]);
	expect(&guests[0], 4, 0);
	assert_memory_equal(at(&guests[1], DATA + 0x8064), at(&guests[0], DATA), 3996);
	assert_memory_equal(at(&guests[1], DATA + 0x7000), at(&guests[0], DATA + 3996), 4096);
	assert_memory_equal(at(&guests[1], DATA + 0x6000), at(&guests[0], DATA + 8092), 4096);
	guests_destroy(guests);
}

static void region_without_all_of_its_runs_cannot_be_used(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	uint8_t *request = new_command(&guests[1], CREATE_MR);
	uint32_t key;

	put_le32(request + 8, guests[1].pd);
	put_le32(request + 12, 7);
	put_le32(request + 16, 1);
	put_le32(request + 20, 1);
	put_le64(request + 24, DATA);
	put_le64(request + 32, 8192);
	put_run(request + 48, DATA, 4096);
	key = make(&guests[1], 64);
	put_remote(new_work(&guests[0], WR_WRITE, 4, 0, 8), DATA, key);
	post_work(&guests[0]);
	expect(&guests[0], 4, 10);
	guests_destroy(guests);
}

static void region_over_no_memory_is_refused_when_it_is_used(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	uint32_t key = make_mr(&guests[1], RAM_SIZE - 4096, 8192, 7);

	put_remote(new_work(&guests[0], WR_READ, 3, 0, 8), RAM_SIZE - 8, key);
	post_work(&guests[0]);
	expect(&guests[0], 3, 0);
	put_remote(new_work(&guests[0], WR_READ, 4, 0, 8), RAM_SIZE - 4, key);
	post_work(&guests[0]);
	expect(&guests[0], 4, 10);
	guests_destroy(guests);
}

static void region_of_all_memory_has_guest_addresses(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	uint8_t *request = new_command(&guests[1], CREATE_MR);
	uint32_t key;

	put_le32(request + 8, guests[1].pd);
	put_le32(request + 12, 7);
	put_le32(request + 16, 2);
	key = make(&guests[1], 48);
	put_remote(new_work(&guests[0], WR_WRITE, 4, 0, 5000), DATA + 0x9000, key);
	post_work(&guests[0]);
	expect(&guests[0], 4, 0);
	assert_memory_equal(at(&guests[1], DATA + 0x9000), at(&guests[0], DATA), 5000);
	put_remote(new_work(&guests[0], WR_WRITE, 5, 0, 8), UINT64_C(1) << 60, key);
	post_work(&guests[0]);
	expect(&guests[0], 5, 10);
	guests_destroy(guests);
}

/* Queues in pieces, of which one ends in the middle of an element. */
static void queues_may_be_of_scattered_pages(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	uint8_t *request = new_command(&guests[0], CREATE_CQ);

	guests[0].cq = new_queue(&guests[0], 256, 64);
	put_le32(request + 8, 256);
	put_le32(request + 12, 3);
	put_run(request + 16, guests[0].cq.address, 64);
	put_run(request + 32, guests[0].cq.address + 64, 64 * 5);
	put_run(request + 48, guests[0].cq.address + 384, 64 * 256);
	guests[0].cqn = make(&guests[0], 64);
	request = new_command(&guests[0], CREATE_QP);
	qp_request(&guests[0], TYPE_RC, request);
	put_le32(request + 56, 3);
	put_run(request + 64, guests[0].sq.address, 4096 * 4);
	put_run(request + 80, MIB(7), 64);
	put_run(request + 96, guests[0].sq.address + 4096 * 4 + 64, queue_size(&guests[0].sq));
	put_run(request + 112, guests[0].rq.address, queue_size(&guests[0].rq));
	guests[0].qpn = make(&guests[0], 128);
	guests[1].qpn = make_qp(&guests[1], TYPE_RC);
	bring_up(&guests[0], &guests[1], TYPE_RC);
	bring_up(&guests[1], &guests[0], TYPE_RC);
	/* 4 pages are 384 + 31 * 512 + 128 bytes: the piece is of the 32nd element, from byte 128 on. */
	for (uint64_t i = 0; i < 40; i++) {
		uint8_t *work = new_work(&guests[0], WR_WRITE, i, 0, 100);

		put_remote(work, DATA + AT + i * 100, guests[1].key);
		if (i == 31) {
			memcpy(at(&guests[0], MIB(7)), work + 128, 64);
			memset(work + 128, 0xff, 64);
		}
		post_work(&guests[0]);
		expect(&guests[0], i, 0);
	}
	guests_destroy(guests);
}

/* --- Shared receives, windows, fast registration ----------------------------------------------- */

static void shared_receives_serve_their_pairs(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	struct guest *guest = &guests[1];
	uint8_t *request = new_command(guest, CREATE_SRQ);
	struct queue queue = new_queue(guest, 16, 128);

	put_le32(request + 8, guest->pd);
	put_le32(request + 12, 16);
	put_le32(request + 16, 128);
	put_le32(request + 20, 4);
	put_le32(request + 24, 2);
	put_le32(request + 28, 1);
	put_run(request + 32, queue.address, queue_size(&queue));
	guest->srqn = make(guest, 48);
	request = new_command(guest, CREATE_QP);
	qp_request(guest, TYPE_RC, request);
	put_le32(request + 24, guest->srqn);
	memset(request + 44, 0, 12);
	put_le32(request + 60, 0);
	guest->qpn = make(guest, 80);
	guests[0].qpn = make_qp(&guests[0], TYPE_RC);
	bring_up(&guests[0], guest, TYPE_RC);
	bring_up(guest, &guests[0], TYPE_RC);
	for (uint64_t i = 0; i < 3; i++)
		post_receive(guest, &queue, 10 + i, AT, 100);
	for (uint64_t i = 0; i < 2; i++) {
		new_work(&guests[0], WR_SEND, i, 0, 8);
		post_work(&guests[0]);
		expect(&guests[0], i, 0);
		expect(guest, 10 + i, 0);
	}
	/* One is left, less than the limit. */
	expect_event(guest, 15, guest->srqn);
	assert_int_equal(simple_command(guest, QUERY_SRQ, guest->srqn), 0);
	assert_int_equal(answered(guest), 0);
	assert_int_equal(simple_command(guest, DESTROY_SRQ, guest->srqn), EBUSY);
	assert_int_equal(modify(guest, &guests[0], 0, 1, STATE_ERR), 0);
	expect_event(guest, 16, guest->qpn);
	assert_int_equal(simple_command(guest, DESTROY_QP, guest->qpn), 0);
	assert_int_equal(simple_command(guest, DESTROY_SRQ, guest->srqn), 0);
	guests_destroy(guests);
}

static void windows_are_bound_and_invalidated(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	struct guest *guest = &guests[1];
	uint8_t *request = new_command(guest, CREATE_MW), *work;
	uint32_t window;

	put_le32(request + 8, guest->pd);
	put_le32(request + 12, 2);
	window = make(guest, 16);
	work = new_work(guest, WR_BIND_MW, 1, 0, 0);
	put_le64(work + 24, DATA + AT);
	put_le64(work + 32, 100);
	put_le32(work + 40, guest->key);
	put_le32(work + 44, window);
	put_le32(work + 48, window + 1);
	put_le32(work + 52, 2);
	post_work(guest);
	expect(guest, 1, 0);
	assert_int_equal(simple_command(guest, DESTROY_MR, guest->key), EBUSY);
	put_remote(new_work(&guests[0], WR_WRITE, 2, 0, 100), DATA + AT, window + 1);
	post_work(&guests[0]);
	expect(&guests[0], 2, 0);
	work = new_work(guest, WR_LOCAL_INV, 3, 0, 0);
	put_le32(work + 20, window + 1);
	post_work(guest);
	expect(guest, 3, 0);
	assert_int_equal(simple_command(guest, DESTROY_MR, guest->key), 0);
	put_remote(new_work(&guests[0], WR_WRITE, 4, 0, 100), DATA + AT, window + 1);
	post_work(&guests[0]);
	expect(&guests[0], 4, 10);
	assert_int_equal(simple_command(guest, DESTROY_MW, window), 0);
	guests_destroy(guests);
}

/* A window that goes while its binding waits to be executed is none. */
static void binding_of_a_window_that_is_gone_fails(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	struct guest *guest = &guests[1];
	uint8_t *request = new_command(guest, CREATE_MW), *work;
	uint32_t window;

	put_le32(request + 8, guest->pd);
	put_le32(request + 12, 1);
	window = make(guest, 16);
	/* Without receives at the other end the send waits, and the binding behind it. */
	new_work(guest, WR_SEND, 1, 0, 8);
	add_element(guest, &guest->sq);
	work = new_work(guest, WR_BIND_MW, 2, 0, 0);
	put_le32(work + 16, SIGNALED | FENCE);
	put_le64(work + 24, DATA + AT);
	put_le64(work + 32, 100);
	put_le32(work + 40, guest->key);
	put_le32(work + 44, window);
	put_le32(work + 48, window + 1);
	add_element(guest, &guest->sq);
	assert_int_equal(simple_command(guest, DESTROY_MW, window), 0);
	kick(guest, 1, guest->qpn);
	post_receive(&guests[0], &guests[0].rq, 3, AT, 100);
	expect(guest, 1, 0);
	expect(guest, 2, 6);
	guests_destroy(guests);
}

static uint8_t *registration(struct guest *guest, uint64_t id, uint32_t key)
{
	uint8_t *work = new_work(guest, WR_REG_MR, id, 0, 0);

	put_le64(work + 24, 0x5000 + 10);
	put_le64(work + 32, 8000);
	put_le64(work + 40, DATA);
	put_le32(work + 48, 2);
	put_le32(work + 52, 12);
	put_le32(work + 56, key);
	put_le32(work + 60, 7);
	return work;
}

static void fast_registration_gives_pages(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	struct guest *guest = &guests[1];
	uint8_t *request = new_command(guest, CREATE_MR), *work;
	struct completion completion;
	uint32_t key;

	put_le32(request + 8, guest->pd);
	put_le32(request + 16, 3);
	put_le32(request + 40, 2);
	key = make(guest, 48);
	put_le64(at(guest, DATA), DATA + 0x9000);
	put_le64(at(guest, DATA + 8), DATA + 0x7000);
	registration(guest, 1, key + 1);
	post_work(guest);
	completion = take_completion(guest);
	assert_int_equal(completion.status, 0);
	assert_int_equal(completion.opcode, 32);
	put_remote(new_work(&guests[0], WR_WRITE, 2, 0, 8000), 0x5000 + 10, key + 1);
	post_work(&guests[0]);
	expect(&guests[0], 2, 0);
	assert_memory_equal(at(guest, DATA + 0x900a), at(&guests[0], DATA), 4086);
	assert_memory_equal(at(guest, DATA + 0x7000), at(&guests[0], DATA + 4086), 8000 - 4086);
	/* The peer invalidates it, and it can be registered again. */
	post_receive(guest, &guest->rq, 3, AT, 100);
	work = new_work(&guests[0], WR_SEND_INV, 4, 0, 8);
	put_le32(work + 20, key + 1);
	post_work(&guests[0]);
	expect(&guests[0], 4, 0);
	completion = take_completion(guest);
	assert_int_equal(completion.flags, 8);
	assert_int_equal(get_le32(completion.immediate), key + 1);
	registration(guest, 5, key + 2);
	post_work(guest);
	expect(guest, 5, 0);
	put_remote(new_work(&guests[0], WR_WRITE, 6, 0, 8), 0x5000 + 10, key + 1);
	post_work(&guests[0]);
	expect(&guests[0], 6, 10);
	guests_destroy(guests);
}

static void fast_registration_of_too_many_bytes_fails(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	struct guest *guest = &guests[1];
	uint8_t *request = new_command(guest, CREATE_MR), *work;

	put_le32(request + 8, guest->pd);
	put_le32(request + 16, 3);
	put_le32(request + 40, 2);
	work = registration(guest, 1, make(guest, 48));
	/* 10 bytes into the first page, so that the last two are in a third one. */
	put_le64(work + 32, 8184);
	post_work(guest);
	expect(guest, 1, 2);
	guests_destroy(guests);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sends_arrive),
	    cmocka_unit_test(writes_and_reads_reach_the_other_memory),
	    cmocka_unit_test(atomics_reach_the_other_memory),
	    cmocka_unit_test(immediate_data_arrives_as_it_is),
	    cmocka_unit_test(inline_data_arrives),
	    cmocka_unit_test(many_work_requests_complete_in_their_order),
	    cmocka_unit_test(work_without_a_signal_frees_its_slot),
	    cmocka_unit_test(wrong_key_is_refused_by_the_other_end),
	    cmocka_unit_test(unreliable_writes_arrive),
	    cmocka_unit_test(datagrams_arrive_with_their_header),
	    cmocka_unit_test(general_services_have_number_1),
	    cmocka_unit_test(datagrams_from_an_address_that_is_not_there_are_lost),
	    cmocka_unit_test(datagrams_to_an_address_that_was_deleted_are_lost),
	    cmocka_unit_test(armed_queue_tells_once),
	    cmocka_unit_test(queue_armed_for_solicited_completions_waits_for_one),
	    cmocka_unit_test(events_wait_for_buffers),
	    cmocka_unit_test(first_packet_for_a_pair_in_rtr_is_told),
	    cmocka_unit_test(full_completion_queue_overruns),
	    cmocka_unit_test(failed_pair_flushes_what_is_posted_later_too),
	    cmocka_unit_test(work_that_is_posted_early_waits),
	    cmocka_unit_test(reset_pair_forgets_what_was_posted),
	    cmocka_unit_test(paused_device_takes_its_packets_later),
	    cmocka_unit_test(device_begins_anew_after_a_reset),
	    cmocka_unit_test(region_may_be_of_scattered_pages),
	    cmocka_unit_test(region_without_all_of_its_runs_cannot_be_used),
	    cmocka_unit_test(region_over_no_memory_is_refused_when_it_is_used),
	    cmocka_unit_test(region_of_all_memory_has_guest_addresses),
	    cmocka_unit_test(queues_may_be_of_scattered_pages),
	    cmocka_unit_test(shared_receives_serve_their_pairs),
	    cmocka_unit_test(windows_are_bound_and_invalidated),
	    cmocka_unit_test(binding_of_a_window_that_is_gone_fails),
	    cmocka_unit_test(fast_registration_gives_pages),
	    cmocka_unit_test(fast_registration_of_too_many_bytes_fails),
	};

	/* 77: skipped, for meson. */
	return port_is_free() ? cmocka_run_group_tests(tests, NULL, NULL) : 77;
}
