/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A ring of a back-end (vhost_user/queue.h) in memory that anybody writes to, with an in-flight buffer that
 * anybody writes to: what is popped is guest memory and no more than the ring holds, and everything can be given
 * back.
 *
 * The input: features (1 byte), ring size (1), where it goes on (4), then moves: writes into memory and the
 * in-flight buffer, descriptors and heads as a driver would make them, and what a device does.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"
#include "fuzz_input.h"
#include "vhost_user/queue.h"
#include "vhost_user/socket.h"

#define PIECE	 65536U /* two of them adjoin in the guest, and not here */
#define USER	 0x100000000ULL
#define TABLE	 0x1000U
#define AVAIL	 0x2000U
#define USED	 0x3000U
#define BUFFERS	 24U
#define CHAINS	 64U
#define INFLIGHT 32768U

static struct error *start_ring(void *context, uint32_t ring)
{
	return NULL;
}

static struct error *stop_ring(void *context, uint32_t ring, uint32_t *base)
{
	return NULL;
}

static const struct vhost_user_back_end_ops ops = {.start_ring = start_ring,
						   .stop_ring = stop_ring};

struct chain {
	struct vhost_user_chain is;
	struct iovec iov[BUFFERS];
	uint64_t addresses[BUFFERS];
};

struct run {
	struct vhost_user_socket socket;
	struct vhost_user_back_end *back;
	uint8_t *memory[2], *inflight;
	int memory_fd[2], inflight_fd, kick;
	struct vhost_user_queue queue;
	struct chain chains[CHAINS];
	unsigned int count; /* chains in flight */
	uint16_t size;
	bool packed;
};

static void check(struct error *error)
{
	if (error)
		abort();
}

static uint8_t *make_file(int *fd, uint64_t size)
{
	uint8_t *bytes;

	*fd = memfd_create("file", MFD_CLOEXEC);
	if (*fd < 0 || ftruncate(*fd, (off_t)size) < 0)
		abort();
	bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	if (bytes == MAP_FAILED)
		abort();
	return bytes;
}

/* An error is the front-end's fault, and the ring is not started. */
static bool ask(struct run *run, struct vhost_user_message *message, uint32_t request)
{
	struct error *error;

	message->type = vhost_user_message_type(VHOST_USER_MAIN, request);
	message->payload = message->type->payload;
	check(vhost_user_socket_send(&run->socket, message, clock_monotonic_ns() + NS_PER_SECOND));
	error = vhost_user_back_end_process(run->back);
	error_free(error);
	return !error;
}

static bool ask_u64(struct run *run, uint32_t request, uint64_t value)
{
	struct vhost_user_message message = {.u64 = value};

	return ask(run, &message, request);
}

static bool give_memory(struct run *run)
{
	struct vhost_user_message message = {.regions.count = 2, .fd_count = 2};

	for (unsigned int i = 0; i < 2; i++) {
		message.regions.list[i] =
		    (struct vhost_user_region){i * PIECE, PIECE, USER + i * PIECE, 0};
		message.fds[i] = run->memory_fd[i];
	}
	return ask(run, &message, VHOST_USER_SET_MEM_TABLE);
}

static bool start(struct run *run, uint32_t base, bool tracked)
{
	struct vhost_user_message inflight = {
	    .inflight = {INFLIGHT, 0, 1, 256}, .fd_count = 1, .fds = {run->inflight_fd}};
	struct vhost_user_message size = {.state = {0, run->size}}, at = {.state = {0, base}};
	struct vhost_user_message address = {.address = {.index = 0,
							 .flags = VHOST_USER_RING_LOG,
							 .descriptor = USER + TABLE,
							 .available = USER + AVAIL,
							 .used = USER + USED}};
	struct vhost_user_message kick = {.fd_count = 1, .fds = {run->kick}};

	return give_memory(run) && (!tracked || ask(run, &inflight, VHOST_USER_SET_INFLIGHT_FD)) &&
	       ask(run, &size, VHOST_USER_SET_VRING_NUM) &&
	       ask(run, &at, VHOST_USER_SET_VRING_BASE) &&
	       ask(run, &address, VHOST_USER_SET_VRING_ADDR) &&
	       ask(run, &kick, VHOST_USER_SET_VRING_KICK);
}

/* What was popped is memory, as long as it says. */
static void touch(struct run *run, const struct chain *chain)
{
	unsigned int count = chain->is.out_count + chain->is.in_count;
	uint64_t sum = 0;

	assert(count && count <= BUFFERS);
	for (unsigned int i = 0; i < count; i++) {
		volatile uint8_t *bytes = chain->iov[i].iov_base;
		uint64_t size = chain->iov[i].iov_len;

		assert(size && size <= PIECE && chain->addresses[i] < 2 * (uint64_t)PIECE);
		sum += size;
		(void)bytes[0];
		(void)bytes[size - 1];
		if (i >= chain->is.out_count)
			bytes[size - 1] = 1;
	}
	assert(sum == chain->is.out_size + chain->is.in_size);
}

static void pop(struct run *run)
{
	struct chain *chain = &run->chains[run->count];

	if (run->count == CHAINS)
		return;
	chain->is = (struct vhost_user_chain){
	    .iov = chain->iov, .addresses = chain->addresses, .max = BUFFERS};
	if (vhost_user_queue_pop(&run->queue, &chain->is) == 1) {
		run->count++;
		touch(run, chain);
	} else {
		/* What is broken stays so. */
		assert(!run->queue.broken ||
		       vhost_user_queue_pop(&run->queue, &chain->is) == -EINVAL);
	}
}

static void push(struct run *run, unsigned int index, uint32_t written)
{
	struct chain last;

	if (!run->count)
		return;
	index %= run->count;
	vhost_user_queue_push(&run->queue, &run->chains[index].is, written);
	last = run->chains[--run->count];
	run->chains[index] = last;
	run->chains[index].is.iov = run->chains[index].iov;
	run->chains[index].is.addresses = run->chains[index].addresses;
}

static void refresh(struct run *run)
{
	if (!run->count)
		error_free(vhost_user_queue_refresh(&run->queue));
}

static void put_descriptor(struct run *run, struct fuzz_input *input)
{
	uint8_t *entry = run->memory[0] + TABLE + 16 * (size_t)(fuzz_take8(input) % run->size);
	uint16_t head = fuzz_take8(input), index;

	put_le64(entry, fuzz_take16(input) * 2ULL);
	put_le32(entry + 8, fuzz_take16(input));
	put_le16(entry + 12, fuzz_take16(input));
	put_le16(entry + 14, fuzz_take16(input));
	if (run->packed || head & 0x80)
		return;
	index = get_le16(run->memory[0] + AVAIL + 2);
	put_le16(run->memory[0] + AVAIL + 4 + 2 * (size_t)(index % run->size), head);
	put_le16(run->memory[0] + AVAIL + 2, (uint16_t)(index + 1));
}

static void scribble(uint8_t *bytes, uint32_t size, struct fuzz_input *input)
{
	uint32_t at = fuzz_take16(input) % (size - 64);

	fuzz_take(input, bytes + at, fuzz_take8(input) % 64);
}

static void play(struct run *run, struct fuzz_input *input)
{
	for (unsigned int i = 0; input->left && i < 1000; i++) {
		uint8_t move = fuzz_take8(input);

		switch (move % 8) {
		case 0:
			scribble(run->memory[0], PIECE, input);
			break;
		case 1:
			scribble(run->inflight, INFLIGHT, input);
			break;
		case 2:
		case 3:
			put_descriptor(run, input);
			break;
		case 4:
			pop(run);
			break;
		case 5:
			push(run, move / 8, move);
			break;
		case 6:
			vhost_user_queue_notifications(&run->queue, move & 8);
			vhost_user_queue_notify(&run->queue);
			break;
		case 7:
			refresh(run);
			break;
		}
		assert(run->queue.in_flight == run->count && run->count <= CHAINS);
	}
	while (run->count)
		push(run, 0, 1);
	vhost_user_queue_base(&run->queue);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {data, size};
	uint8_t kind = fuzz_take8(&input), entries = fuzz_take8(&input);
	uint64_t features = 1ULL << 32 | VHOST_USER_F_PROTOCOL_FEATURES |
			    (kind & 1 ? 1ULL << 34 : 0) | (kind & 2 ? 1ULL << 28 : 0) |
			    (kind & 4 ? 1ULL << 29 : 0);
	struct vhost_user_back_end_options options = {
	    .features = 1ULL << 32 | 1ULL << 34 | 3ULL << 28,
	    .protocol = VHOST_USER_PROTOCOL_INFLIGHT_SHMFD,
	    .queues = 1,
	    .queue_size = 256,
	    .time_limit_ns = NS_PER_SECOND,
	    .ops = &ops};
	struct run run = {.packed = kind & 1};
	int ends[2];

	run.size = run.packed ? entries % 64 + 1 : (uint16_t)(1U << entries % 7);
	for (unsigned int i = 0; i < 2; i++)
		run.memory[i] = make_file(&run.memory_fd[i], PIECE);
	run.inflight = make_file(&run.inflight_fd, INFLIGHT);
	run.kick = eventfd(0, EFD_CLOEXEC);
	if (run.kick < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		abort();
	check(vhost_user_back_end_open(ends[1], &options, &run.back));
	check(vhost_user_socket_init(&run.socket, ends[0], VHOST_USER_MAIN, true));
	if (kind & 8)
		scribble(run.inflight, INFLIGHT, &input);
	if (ask_u64(&run, VHOST_USER_SET_PROTOCOL_FEATURES, VHOST_USER_PROTOCOL_INFLIGHT_SHMFD) &&
	    ask_u64(&run, VHOST_USER_SET_FEATURES, features) &&
	    start(&run, fuzz_take32(&input), kind & 16)) {
		struct error *error = vhost_user_queue_begin(&run.queue, run.back, 0);

		if (!error)
			play(&run, &input);
		error_free(error);
		vhost_user_queue_end(&run.queue);
	}
	vhost_user_back_end_close(run.back);
	vhost_user_socket_close(&run.socket);
	for (unsigned int i = 0; i < 2; i++) {
		munmap(run.memory[i], PIECE);
		close(run.memory_fd[i]);
	}
	munmap(run.inflight, INFLIGHT);
	close(run.inflight_fd);
	close(run.kick);
	return 0;
}
