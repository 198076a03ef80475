/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A guest with an RDMA device, as its driver and its programs see it: commands, queues in guest memory,
 * kicks and events. Offsets and numbers are those of docs/virtio-rdma.md, not the device's.
 */
#ifndef GODWIT_TESTS_RDMA_DEVICE_H
#define GODWIT_TESTS_RDMA_DEVICE_H

#include <errno.h>
#include <stdio.h>

#include "virtio/rdma.h"
#include "virtio_driver.h"

#define CONTROL 0
#define EVENTS	1
#define KICK	2

#define REQUEST	  0x10000U /* of a command; 128 KiB */
#define ANSWER	  0x40000U
#define KICKS	  0x41000U
#define BUFFERS	  0x42000U /* for events */
#define OBJECTS	  MIB(1)   /* queues */
#define DATA	  MIB(8)   /* what regions are of */
#define DATA_SIZE KIB(256)

#define SLOTS	       64U
#define SEND_STRIDE    512U
#define SEND_SGE       4U
#define SEND_INLINE    256U
#define RECEIVE_STRIDE 128U
#define RECEIVE_SGE    4U
#define EVERY_RIGHT    0x1fU

enum {
	CREATE_PD = 1,
	DESTROY_PD,
	CREATE_CQ,
	DESTROY_CQ,
	CREATE_SRQ,
	MODIFY_SRQ,
	QUERY_SRQ,
	DESTROY_SRQ,
	CREATE_QP,
	MODIFY_QP,
	QUERY_QP,
	DESTROY_QP,
	CREATE_MR,
	EXTEND_MR,
	DESTROY_MR,
	CREATE_MW,
	DESTROY_MW,
	SET_GID,
	DELETE_GID
};
enum {
	WR_WRITE,
	WR_WRITE_IMM,
	WR_SEND,
	WR_SEND_IMM,
	WR_READ,
	WR_CAS,
	WR_FADD,
	WR_LOCAL_INV,
	WR_BIND_MW,
	WR_SEND_INV,
	WR_REG_MR = 32
};
enum { FENCE = 1, SIGNALED = 2, SOLICITED = 4, INLINE = 8 };
enum { TYPE_GSI = 1, TYPE_RC, TYPE_UC, TYPE_UD };
enum { STATE_RESET, STATE_INIT, STATE_RTR, STATE_RTS, STATE_SQD, STATE_ERR = 6 };

struct queue {
	uint64_t address; /* of its header */
	uint32_t slots, stride;
	uint32_t own;
};

struct guest {
	struct driver driver;
	uint8_t address[16];
	uint64_t next; /* memory for queues */
	uint32_t pd, cqn, qpn, key, srqn;
	struct queue cq, sq, rq;
	uint32_t kicks, event_buffers;
};

struct completion {
	uint64_t id;
	uint32_t status, opcode, bytes, qpn, source, flags;
	uint8_t immediate[4];
};

/* --- Commands ---------------------------------------------------------------------------------- */

static inline uint8_t *at(struct guest *guest, uint64_t address)
{
	return guest->driver.ram + address;
}

/* Where the next command is written, all zero but for its number. */
static inline uint8_t *new_command(struct guest *guest, uint32_t number)
{
	uint8_t *request = at(guest, REQUEST);

	memset(request, 0, KIB(128));
	put_le32(request, number);
	return request;
}

static inline uint32_t send_command(struct guest *guest, uint32_t size, uint32_t room)
{
	const struct driver_buffer buffers[] = {{REQUEST, size, false}, {ANSWER, room, true}};
	uint32_t written, status;

	memset(at(guest, ANSWER), 0xee, 128);
	written = driver_request(&guest->driver, CONTROL, buffers, 2);
	status = get_le32(at(guest, ANSWER));
	if (status)
		assert_int_equal(written, 8);
	return status;
}

/* The number that the last command answered. */
static inline uint32_t answered(struct guest *guest)
{
	return get_le32(at(guest, ANSWER) + 8);
}

/* A command that makes something, and its number. */
static inline uint32_t make(struct guest *guest, uint32_t size)
{
	assert_int_equal(send_command(guest, size, 16), 0);
	assert_int_not_equal(answered(guest), 0);
	return answered(guest);
}

/* A command with one number. */
static inline uint32_t simple_command(struct guest *guest, uint32_t number, uint32_t argument)
{
	put_le32(new_command(guest, number) + 8, argument);
	return send_command(guest, 12, 80);
}

static inline void put_run(uint8_t *request, uint64_t address, uint64_t length)
{
	put_le64(request, address);
	put_le64(request + 8, length);
}

/* Memory for a queue, in the guest's memory. */
static inline struct queue new_queue(struct guest *guest, uint32_t slots, uint32_t stride)
{
	struct queue queue = {.address = guest->next, .slots = slots, .stride = stride};

	guest->next += (384 + (uint64_t)slots * stride + 4095) & ~UINT64_C(4095);
	assert_true(guest->next <= DATA);
	memset(at(guest, queue.address), 0, guest->next - queue.address);
	return queue;
}

static inline uint64_t queue_size(const struct queue *queue)
{
	return 384 + (uint64_t)queue->slots * queue->stride;
}

static inline uint32_t make_cq(struct guest *guest, struct queue *queue, uint32_t slots)
{
	uint8_t *request = new_command(guest, CREATE_CQ);

	*queue = new_queue(guest, slots, 64);
	put_le32(request + 8, slots);
	put_le32(request + 12, 1);
	put_run(request + 16, queue->address, queue_size(queue));
	return make(guest, 32);
}

static inline void qp_request(struct guest *guest, uint32_t type, uint8_t *request)
{
	guest->sq = new_queue(guest, SLOTS, SEND_STRIDE);
	guest->rq = new_queue(guest, SLOTS, RECEIVE_STRIDE);
	put_le32(request + 8, guest->pd);
	request[12] = (uint8_t)type;
	put_le32(request + 16, guest->cqn);
	put_le32(request + 20, guest->cqn);
	put_le32(request + 28, SLOTS);
	put_le32(request + 32, SEND_STRIDE);
	put_le32(request + 36, SEND_SGE);
	put_le32(request + 40, SEND_INLINE);
	put_le32(request + 44, SLOTS);
	put_le32(request + 48, RECEIVE_STRIDE);
	put_le32(request + 52, RECEIVE_SGE);
	put_le32(request + 56, 1);
	put_le32(request + 60, 1);
	put_run(request + 64, guest->sq.address, queue_size(&guest->sq));
	put_run(request + 80, guest->rq.address, queue_size(&guest->rq));
}

static inline uint32_t make_qp(struct guest *guest, uint32_t type)
{
	qp_request(guest, type, new_command(guest, CREATE_QP));
	return make(guest, 96);
}

/* A region of @length bytes at @address, which keys' users call by the same address. */
static inline uint32_t make_mr(struct guest *guest, uint64_t address, uint64_t length,
			       uint32_t access)
{
	uint8_t *request = new_command(guest, CREATE_MR);

	put_le32(request + 8, guest->pd);
	put_le32(request + 12, access);
	put_le32(request + 16, 1);
	put_le32(request + 20, 1);
	put_le64(request + 24, address);
	put_le64(request + 32, length);
	put_run(request + 48, address, length);
	return make(guest, 64);
}

static inline uint32_t set_gid(struct guest *guest, uint32_t index, const uint8_t gid[16])
{
	uint8_t *request = new_command(guest, SET_GID);

	put_le32(request + 8, index);
	memcpy(request + 16, gid, 16);
	return send_command(guest, 32, 8);
}

/* --- Queue pairs ------------------------------------------------------------------------------- */

#define MASK_INIT (1U << 0 | 1U << 3 | 1U << 4 | 1U << 5)
#define MASK_RTR  (1U << 0 | 1U << 7 | 1U << 8 | 1U << 12 | 1U << 15 | 1U << 17 | 1U << 20)
#define MASK_RTS  (1U << 0 | 1U << 9 | 1U << 10 | 1U << 11 | 1U << 13 | 1U << 16)

/* What MODIFY_QP of @guest's queue pair asks for, on the way to the queue pair @peer of @other. */
static inline uint8_t *modification(struct guest *guest, const struct guest *other, uint32_t peer,
				    uint32_t mask, uint8_t state)
{
	uint8_t *request = new_command(guest, MODIFY_QP);

	put_le32(request + 8, guest->qpn);
	put_le32(request + 12, mask);
	request[16] = state;
	request[17] = 3; /* 1024 bytes */
	request[18] = 14;
	request[19] = 7;
	request[20] = 7;
	request[21] = 12;
	request[22] = 4;
	request[23] = 4;
	put_le32(request + 24, 0xf);
	put_le32(request + 28, 0x11111111);
	put_le32(request + 32, 100);
	put_le32(request + 36, 100);
	put_le32(request + 40, peer);
	memcpy(request + 48, other->address, 16);
	return request;
}

static inline uint32_t modify(struct guest *guest, const struct guest *other, uint32_t peer,
			      uint32_t mask, uint8_t state)
{
	modification(guest, other, peer, mask, state);
	return send_command(guest, 80, 8);
}

static inline void bring_up(struct guest *guest, const struct guest *other, uint32_t type)
{
	bool reliable = type == TYPE_RC, datagram = type == TYPE_UD || type == TYPE_GSI;
	uint32_t rtr = reliable ? MASK_RTR : datagram ? 1U : MASK_RTR & ~(1U << 15 | 1U << 17);

	assert_int_equal(
	    modify(guest, other, other->qpn, datagram ? 1U << 0 | 1U << 6 : MASK_INIT, STATE_INIT),
	    0);
	assert_int_equal(modify(guest, other, other->qpn, rtr, STATE_RTR), 0);
	assert_int_equal(
	    modify(guest, other, other->qpn, reliable ? MASK_RTS : 1U << 0 | 1U << 16, STATE_RTS),
	    0);
}

static inline uint32_t qp_state(struct guest *guest)
{
	assert_int_equal(simple_command(guest, QUERY_QP, guest->qpn), 0);
	return at(guest, ANSWER)[16];
}

/* --- Queues ------------------------------------------------------------------------------------ */

static inline uint32_t *index_of(struct guest *guest, const struct queue *queue, uint32_t offset)
{
	return (uint32_t *)(void *)at(guest, queue->address + offset);
}

static inline uint8_t *element(struct guest *guest, const struct queue *queue, uint32_t slot)
{
	return at(guest, queue->address + 384 + (uint64_t)slot * queue->stride);
}

/* The next free element of a work queue, all zero. */
static inline uint8_t *new_element(struct guest *guest, const struct queue *queue)
{
	uint8_t *bytes = element(guest, queue, queue->own);

	memset(bytes, 0, queue->stride);
	return bytes;
}

static inline void add_element(struct guest *guest, struct queue *queue)
{
	queue->own = (queue->own + 1) % queue->slots;
	__atomic_store_n(index_of(guest, queue, 128), queue->own, __ATOMIC_RELEASE);
}

static inline void kick(struct guest *guest, uint32_t kind, uint32_t number)
{
	uint64_t address = KICKS + guest->kicks++ % 64 * 8;
	const struct driver_buffer buffer = {address, 8, false};

	put_le32(at(guest, address), kind);
	put_le32(at(guest, address) + 4, number);
	driver_request(&guest->driver, KICK, &buffer, 1);
}

static inline void put_segment(uint8_t *bytes, uint64_t address, uint32_t length, uint32_t key)
{
	put_le64(bytes, address);
	put_le32(bytes + 8, length);
	put_le32(bytes + 12, key);
}

/* A work request with one segment of @guest's data, not posted yet. */
static inline uint8_t *new_work(struct guest *guest, uint32_t opcode, uint64_t id, uint64_t offset,
				uint32_t length)
{
	uint8_t *bytes = new_element(guest, &guest->sq);

	put_le64(bytes, id);
	put_le32(bytes + 12, opcode);
	put_le32(bytes + 16, SIGNALED);
	put_le32(bytes + 184, length);
	put_le32(bytes + 196, 1);
	put_segment(bytes + 208, DATA + offset, length, guest->key);
	return bytes;
}

static inline void put_remote(uint8_t *work, uint64_t address, uint32_t key)
{
	put_le64(work + 24, address);
	put_le32(work + 32, key);
}

static inline void post_work(struct guest *guest)
{
	add_element(guest, &guest->sq);
	kick(guest, 1, guest->qpn);
}

static inline void post_receive(struct guest *guest, struct queue *queue, uint64_t id,
				uint64_t offset, uint32_t length)
{
	uint8_t *bytes = new_element(guest, queue);

	put_le64(bytes, id);
	put_le32(bytes + 28, 1);
	put_segment(bytes + 40, DATA + offset, length, guest->key);
	add_element(guest, queue);
}

static inline bool has_completion(struct guest *guest)
{
	return __atomic_load_n(index_of(guest, &guest->cq, 128), __ATOMIC_ACQUIRE) != guest->cq.own;
}

/* Waits for the next completion, and takes it. */
static inline struct completion take_completion(struct guest *guest)
{
	struct completion completion;
	const uint8_t *bytes;

	for (int i = 0; !has_completion(guest); i++) {
		if (i == WAIT_MAX_MS)
			fail_msg("no completion");
		usleep(1000);
	}
	bytes = element(guest, &guest->cq, guest->cq.own);
	completion = (struct completion){
	    get_le64(bytes),	  get_le32(bytes + 8),	get_le32(bytes + 12), get_le32(bytes + 20),
	    get_le32(bytes + 28), get_le32(bytes + 32), get_le32(bytes + 36), {0}};
	memcpy(completion.immediate, bytes + 24, 4);
	guest->cq.own = (guest->cq.own + 1) % guest->cq.slots;
	__atomic_store_n(index_of(guest, &guest->cq, 256), guest->cq.own, __ATOMIC_RELEASE);
	return completion;
}

static inline void expect(struct guest *guest, uint64_t id, uint32_t status)
{
	struct completion completion = take_completion(guest);

	assert_int_equal(completion.status, status);
	assert_int_equal(completion.id, id);
}

/* --- Events ------------------------------------------------------------------------------------ */

static inline void offer_event_buffer(struct guest *guest)
{
	const struct driver_buffer buffer = {BUFFERS + guest->event_buffers++ % 64 * 16, 16, true};

	driver_offer(&guest->driver, EVENTS, &buffer, 1);
	driver_notify(&guest->driver, EVENTS);
}

/* Waits for the next event, for which there is a buffer, and offers a new one. */
static inline void expect_event(struct guest *guest, uint32_t type, uint32_t number)
{
	const uint8_t *record;
	uint16_t head;

	assert_int_equal(driver_wait(&guest->driver, EVENTS, &head), 16);
	record = at(guest, get_le64(at(guest, guest->driver.queues[EVENTS].descriptors) +
				    (size_t)head * 16));
	assert_int_equal(get_le32(record), type);
	assert_int_equal(get_le32(record + 4), number);
	offer_event_buffer(guest);
}

/* --- Guests ------------------------------------------------------------------------------------ */

/* What a driver does when it finds the device. */
static inline void guest_start(struct guest *guest)
{
	driver_start(&guest->driver, 1);
	guest->next = OBJECTS;
	guest->event_buffers = 0;
	for (int i = 0; i < 8; i++)
		offer_event_buffer(guest);
	assert_int_equal(set_gid(guest, 1, guest->address), 0);
	assert_int_equal(set_gid(guest, 0, guest->address), 0);
	new_command(guest, CREATE_PD);
	guest->pd = make(guest, 8);
	guest->cqn = make_cq(guest, &guest->cq, 256);
	guest->key = make_mr(guest, DATA, DATA_SIZE, EVERY_RIGHT);
}

/* An address of this process alone, as far as that can be. */
static inline void own_address(uint8_t address[16])
{
	static const uint8_t v4[12] = {[10] = 0xff, [11] = 0xff};
	static uint8_t number;

	memcpy(address, v4, sizeof(v4));
	address[12] = 127;
	address[13] = (uint8_t)(getpid() >> 8 | 1);
	address[14] = (uint8_t)getpid();
	/* Another one for each guest: one that a test has left behind may still have its own. */
	address[15] = ++number;
}

/* False where somebody else has the port on all addresses: Linux's rxe. */
static inline bool port_is_free(void)
{
	struct virtio_rdma_port port;
	uint8_t address[16];
	char text[32];

	own_address(address);
	snprintf(text, sizeof(text), "%u.%u.%u.%u", address[12], address[13], address[14],
		 address[15]);
	AUTO_ERROR struct error *error = virtio_rdma_udp_port_open(text, false, &port);

	if (!error)
		port.close(port.context);
	return !error;
}

static inline void guest_create(struct guest *guest)
{
	static const struct ram_backing_options memory = {.backing = RAM_BACKING_MEMFD,
							  .host_node = -1};
	static const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};
	struct virtio_rdma_port port;
	struct virtio_device *device;
	char address[32];

	memset(guest, 0, sizeof(*guest));
	log_set_level(LOG_LEVEL_ERROR);
	own_address(guest->address);
	snprintf(address, sizeof(address), "%u.%u.%u.%u", guest->address[12], guest->address[13],
		 guest->address[14], guest->address[15]);
	driver_create_memory(&guest->driver, &memory);
	driver_no_error(virtio_rdma_udp_port_open(address, false, &port));
	driver_no_error(virtio_rdma_create("rdma", mac, &port, &device));
	driver_add_device(&guest->driver, device);
	guest_start(guest);
}

static inline void guest_destroy(struct guest *guest)
{
	driver_destroy(&guest->driver);
}

/* Two guests with a queue pair of @type each, which are connected. */
static inline struct guest *guests_create(uint32_t type)
{
	struct guest *guests = calloc(2, sizeof(*guests));

	assert_non_null(guests);
	for (uint8_t i = 0; i < 2; i++) {
		guest_create(&guests[i]);
		guests[i].qpn = make_qp(&guests[i], type);
	}
	bring_up(&guests[0], &guests[1], type);
	bring_up(&guests[1], &guests[0], type);
	for (uint32_t i = 0; i < DATA_SIZE; i++) {
		at(&guests[0], DATA)[i] = (uint8_t)(i * 7 + i / 256);
		at(&guests[1], DATA)[i] = (uint8_t)(i * 3 + i / 128);
	}
	return guests;
}

static inline void guests_destroy(struct guest *guests)
{
	guest_destroy(&guests[0]);
	guest_destroy(&guests[1]);
	free(guests);
}

#endif
