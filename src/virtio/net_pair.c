/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The data path of a network device (virtio 1.2 section 5.1.6), see net_pair.h.
 *
 * Receiving: one chain is popped and the frame is read straight into its buffers, followed by one
 * more iovec that points into the pair's own `packet` buffer, at the offset that equals the chain's
 * size. Most frames fit in the chain, and nothing is copied. Of a larger one the rest is in
 * `packet`, and is copied into as many further chains as it takes (MRG_RXBUF). For a frame of 64
 * KiB in buffers of 4 KiB the copy costs 2 us beside 8.5 us for the read itself (measured over a
 * socket). The alternative, popping enough chains for the largest frame before each read, copies
 * nothing but walks some 45 chains for every small frame, or keeps them popped while the line is
 * idle, which would hold up unplugging the memory that they are in.
 *
 * If the driver has too few chains for a frame that was read, its first part is copied back to the
 * start of `packet`, where it makes the frame whole, and the chains are put back: the frame waits
 * there for the doorbell. Dropping it instead would cost a stream all the segments in it. While the
 * driver has no buffers the descriptor is not watched; frames wait, and later are dropped, in the
 * kernel.
 *
 * With somebody who takes frames before the driver (net_taker) all are read into `packet`, where they
 * can be looked at, and copied from there.
 *
 * Transmitting: the header is copied and checked, since what the guest may still change cannot be;
 * the rest of the chain goes to the kernel in place. A frame with a bad header is dropped and
 * counted, a chain without a header is malformed.
 *
 * A wake-up does at most BATCH frames in each direction and notifies the driver once. Doorbells are
 * suppressed while there is work, and the receive one always unless buffers ran out.
 *
 * Runs on the pair's loop and allocates nothing after net_pair_init. The guest controls the chains,
 * their contents and sizes, and may write to buffers while the kernel reads or fills them.
 *
 * System calls: read, readv, writev.
 */
#include "virtio/net_pair.h"

#include <assert.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/iov.h"

#define BATCH	    256
#define PACKET_SIZE (NET_HEADER_SIZE + NET_FRAME_MAX)

enum step {
	STEP_DONE,    /* one packet is dealt with */
	STEP_EMPTY,   /* nothing to do: no frame, or no chain to send */
	STEP_STARVED, /* a frame needs more chains than there are */
	STEP_BLOCKED, /* the back-end takes no more */
	STEP_FAILED,  /* the device needs a reset, or the back-end is gone */
};

static void count(uint64_t *counter, uint64_t value)
{
	__atomic_store_n(counter, *counter + value, __ATOMIC_RELAXED);
}

static void watch(struct net_pair *pair, uint32_t events)
{
	if (pair->source && events != pair->events)
		event_source_set_events(pair->source, events);
	pair->events = events;
}

static void update_watch(struct net_pair *pair)
{
	uint32_t events = 0;

	if (pair->running && !pair->starved && pair->rx->enabled)
		events |= EPOLLIN;
	if (pair->running && pair->tx_blocked)
		events |= EPOLLOUT;
	watch(pair, events);
}

/* Whether the queues may be used: another pair may have found the guest misbehaving. */
static bool usable(const struct net_pair *pair)
{
	return pair->running && !(__atomic_load_n(&pair->device->status, __ATOMIC_ACQUIRE) &
				  VIRTIO_STATUS_NEEDS_RESET);
}

static void back_end_lost(struct net_pair *pair)
{
	event_source_remove(TAKE_PTR(pair->source));
	pair->events = 0;
	pair->lost(pair->context);
}

static enum step malformed(struct net_pair *pair, const char *reason)
{
	virtio_device_needs_reset(pair->device, reason);
	return STEP_FAILED;
}

/* --- Receiving --- */

static void put_back(struct net_pair *pair, uint16_t chains)
{
	while (chains--)
		virtqueue_unpop(pair->rx, &pair->chains[chains]);
}

static void discard(struct net_pair *pair, uint16_t chains)
{
	while (chains--)
		virtqueue_discard(pair->rx, &pair->chains[chains]);
}

/* Pops into chains[@index]; the first one, which gets the header, keeps its iovecs. */
static int pop_receive(struct net_pair *pair, uint16_t index)
{
	struct virtqueue_chain *chain = &pair->chains[index];

	chain->iov = index ? pair->more_iov : pair->rx_iov;
	chain->iov_max = NET_IOV_MAX;
	return virtqueue_pop(pair->rx, chain);
}

static enum step drop_received(struct net_pair *pair, uint16_t chains)
{
	put_back(pair, chains);
	pair->held = 0;
	count(&pair->counters.rx_dropped, 1);
	return STEP_DONE;
}

/* The packet of @size bytes is in place: fixes the header up and hands chains[0 .. @chains) over.
 */
static enum step finish_received(struct net_pair *pair, uint16_t chains, size_t size)
{
	static const uint8_t no_flags;
	uint8_t number[2];
	bool fits = true;

	put_le16(number, chains);
	fits &=
	    virtqueue_chain_write(&pair->chains[0], NET_HEADER_NUM_BUFFERS, number, sizeof(number));
	if (!pair->checksums) /* DATA_VALID means nothing to such a driver (5.1.6.4.1) */
		fits &= virtqueue_chain_write(&pair->chains[0], NET_HEADER_FLAGS, &no_flags, 1);
	assert(fits);
	virtqueue_push_many(pair->rx, pair->chains, pair->written, chains);
	pair->held = 0;
	count(&pair->counters.rx_packets, 1);
	count(&pair->counters.rx_bytes, size - NET_HEADER_SIZE);
	return STEP_DONE;
}

/*
 * Copies bytes [@done, @size) of the packet from `packet` into further chains; the first @chains
 * chains hold what comes before.
 */
static enum step scatter(struct net_pair *pair, uint16_t chains, size_t done, size_t size)
{
	while (done < size) {
		struct virtqueue_chain *chain = &pair->chains[chains];
		size_t part;
		int popped;

		/* All that a queue can hold, or a driver that merges nothing and has too small
		 * buffers. */
		if (chains == (pair->mergeable ? pair->rx->layout.size : 1))
			return drop_received(pair, chains);
		popped = pop_receive(pair, chains);
		if (popped < 0) {
			discard(pair, chains);
			return STEP_FAILED;
		}
		if (!popped) {
			if (chains && !pair->held) /* its start is in the first chain alone */
				iov_copy_out(virtqueue_chain_in_place(&pair->chains[0]),
					     pair->chains[0].in_count, pair->packet,
					     pair->written[0]);
			put_back(pair, chains);
			pair->held = size;
			return STEP_STARVED;
		}
		if (chain->in_size < (chains ? 1 : NET_HEADER_SIZE)) {
			discard(pair, chains + 1);
			return malformed(pair, "a receive buffer is smaller than the header");
		}
		part = MIN(size - done, chain->in_size);
		if (!virtqueue_chain_write(chain, 0, pair->packet + done, part))
			assert(!"a chain is as large as it says");
		pair->written[chains++] = part;
		done += part;
	}
	return finish_received(pair, chains, size);
}

/* Reads a frame into chains[0] and, from there on, `packet`. Its size with the header, or a
 * negative errno. */
static ssize_t read_frame(struct net_pair *pair)
{
	struct virtqueue_chain *chain = &pair->chains[0];
	struct iovec *iov = virtqueue_chain_in(chain);
	int entries = chain->in_count;
	ssize_t size;

	if (chain->in_size < PACKET_SIZE)
		iov[entries++] = (struct iovec){.iov_base = pair->packet + chain->in_size,
						.iov_len = PACKET_SIZE - chain->in_size};
	do {
		size = readv(pair->fd, iov, entries);
	} while (size < 0 && errno == EINTR);
	if (size >= 0 || errno == EAGAIN)
		virtqueue_chain_wrote(chain, size < 0 ? 0 : MIN((uint64_t)size, chain->in_size));
	return size < 0 ? -errno : size;
}

/* As receive_one, but somebody else may take the frame. */
static enum step receive_shared(struct net_pair *pair)
{
	ssize_t size;

	do {
		size = read(pair->fd, pair->packet, PACKET_SIZE);
	} while (size < 0 && errno == EINTR);
	if (size < 0 && errno == EAGAIN)
		return STEP_EMPTY;
	if (size <= 0) {
		back_end_lost(pair);
		return STEP_FAILED;
	}
	if (size < NET_HEADER_SIZE + NET_FRAME_MIN)
		return drop_received(pair, 0);
	if (pair->taker.take(pair->taker.context, pair->packet, (size_t)size))
		return STEP_DONE;
	return scatter(pair, 0, 0, (size_t)size);
}

static enum step receive_one(struct net_pair *pair)
{
	struct virtqueue_chain *first = &pair->chains[0];
	ssize_t size;
	int popped;

	if (pair->held)
		return scatter(pair, 0, 0, pair->held);
	if (pair->taker.take)
		return receive_shared(pair);
	popped = pop_receive(pair, 0);
	if (popped <= 0)
		return popped < 0 ? STEP_FAILED : STEP_STARVED;
	if (first->in_size < NET_HEADER_SIZE) {
		discard(pair, 1);
		return malformed(pair, "a receive buffer is smaller than the header");
	}
	size = read_frame(pair);
	if (size <= 0) {
		put_back(pair, 1);
		if (size == -EAGAIN)
			return STEP_EMPTY;
		back_end_lost(pair);
		return STEP_FAILED;
	}
	if (size < NET_HEADER_SIZE + NET_FRAME_MIN)
		return drop_received(pair, 1);
	pair->written[0] = MIN((size_t)size, first->in_size);
	return scatter(pair, 1, pair->written[0], size);
}

static void receive(struct net_pair *pair)
{
	bool asked = false;

	for (int i = 0; i < BATCH; i++) {
		enum step step = receive_one(pair);

		if (step == STEP_DONE) {
			if (asked)
				virtqueue_notifications(pair->rx, false);
			asked = false;
			continue;
		}
		/* Once more after asking for the doorbell, for what came before the driver knew. */
		if (step == STEP_STARVED && !asked) {
			asked = true;
			if (virtqueue_notifications(pair->rx, true))
				continue;
		}
		/* After a failure nothing is to be watched until the reset. */
		pair->starved = step != STEP_EMPTY;
		break;
	}
	if (asked && !pair->starved)
		virtqueue_notifications(pair->rx, false);
	virtqueue_notify(pair->rx);
	update_watch(pair);
}

/* --- Transmitting --- */

/* Sends the frame of @chain. 0, -EAGAIN if the back-end is full, or why it refused. */
static int send_frame(struct net_pair *pair, struct virtqueue_chain *chain,
		      uint8_t header[NET_HEADER_SIZE])
{
	/* tx_iov has an entry in front of the chain's: the last one without frame bytes gets our
	 * header. */
	uint16_t first = iov_skip(chain->iov, chain->out_count, NET_HEADER_SIZE);
	struct iovec *iov = chain->iov + first - 1;
	ssize_t size;

	iov->iov_base = header;
	iov->iov_len = NET_HEADER_SIZE;
	do {
		size = writev(pair->fd, iov, chain->out_count - first + 1);
	} while (size < 0 && errno == EINTR);
	return size < 0 ? -errno : 0;
}

static enum step transmit_one(struct net_pair *pair)
{
	struct virtqueue_chain chain = {.iov = pair->tx_iov + 1, .iov_max = NET_IOV_MAX};
	uint8_t header[NET_HEADER_SIZE];
	uint64_t frame_size;
	int result;

	result = virtqueue_pop(pair->tx, &chain);
	if (result <= 0)
		return result < 0 ? STEP_FAILED : STEP_EMPTY;
	if (!virtqueue_chain_read(&chain, 0, header, sizeof(header))) {
		virtqueue_discard(pair->tx, &chain);
		return malformed(pair, "a chain to transmit is shorter than the header");
	}
	frame_size = chain.out_size - NET_HEADER_SIZE;
	/* Without `source` the pair is not in use, and the driver must know it, or the interface is
	 * gone. */
	result = pair->source && net_header_sanitize(header, pair->features, frame_size)
		     ? send_frame(pair, &chain, header)
		     : -EINVAL;
	if (result == -EAGAIN) {
		virtqueue_unpop(pair->tx, &chain);
		return STEP_BLOCKED;
	}
	if (result) {
		count(&pair->counters.tx_dropped, 1);
	} else {
		count(&pair->counters.tx_packets, 1);
		count(&pair->counters.tx_bytes, frame_size);
	}
	virtqueue_push(pair->tx, &chain, 0);
	return STEP_DONE;
}

static void transmit(struct net_pair *pair)
{
	virtqueue_notifications(pair->tx, false);
	for (int i = 0; i < BATCH; i++) {
		enum step step = transmit_one(pair);

		if (step == STEP_DONE ||
		    (step == STEP_EMPTY && virtqueue_notifications(pair->tx, true)))
			continue;
		if (step == STEP_BLOCKED)
			pair->tx_blocked = true;
		goto done;
	}
	/* More is left for after the others on this loop; no doorbell will tell. */
	event_timer_arm(pair->more, 0);
done:
	virtqueue_notify(pair->tx);
	update_watch(pair);
}

static void transmit_more(void *context)
{
	struct net_pair *pair = context;

	if (usable(pair) && !pair->tx_blocked)
		transmit(pair);
}

/* --- What the loop calls --- */

static void back_end_ready(void *context, uint32_t events)
{
	struct net_pair *pair = context;

	if (!usable(pair) || pair->starved) {
		/* Errors are reported whatever is watched; nothing will come of reading. */
		if (events & (EPOLLERR | EPOLLHUP)) {
			back_end_lost(pair);
			return;
		}
		if (!usable(pair)) {
			watch(pair, 0);
			return;
		}
	}
	if (events & EPOLLOUT) {
		pair->tx_blocked = false;
		transmit(pair);
	}
	if (events & (EPOLLIN | EPOLLERR | EPOLLHUP) && pair->source && usable(pair) &&
	    !pair->starved)
		receive(pair);
}

void net_pair_notify_rx(struct net_pair *pair)
{
	if (!usable(pair) || !pair->starved || !pair->source)
		return;
	pair->starved = false;
	virtqueue_notifications(pair->rx, false);
	receive(pair);
}

void net_pair_notify_tx(struct net_pair *pair)
{
	if (usable(pair) && !pair->tx_blocked)
		transmit(pair);
}

/* --- Life cycle --- */

struct error *net_pair_init(struct net_pair *pair, struct virtio_device *device,
			    struct virtqueue *rx, struct virtqueue *tx, struct event_loop *loop,
			    int fd, void (*lost)(void *context), void *context)
{
	*pair = (struct net_pair){
	    .device = device,
	    .rx = rx,
	    .tx = tx,
	    .loop = loop,
	    .lost = lost,
	    .context = context,
	    .fd = fd,
	    .chains = calloc(NET_QUEUE_SIZE, sizeof(*pair->chains)),
	    .written = calloc(NET_QUEUE_SIZE, sizeof(*pair->written)),
	    .rx_iov = calloc(NET_IOV_MAX + 1, sizeof(*pair->rx_iov)),
	    .more_iov = calloc(NET_IOV_MAX, sizeof(*pair->more_iov)),
	    .tx_iov = calloc(NET_IOV_MAX + 1, sizeof(*pair->tx_iov)),
	    .packet = malloc(PACKET_SIZE), /* untouched pages cost nothing */
	};
	if (!pair->chains || !pair->written || !pair->rx_iov || !pair->more_iov || !pair->tx_iov ||
	    !pair->packet)
		return error_system(ENOMEM, "queue pair");
	return event_timer_create(loop, transmit_more, pair, &pair->more);
}

void net_pair_cleanup(struct net_pair *pair)
{
	event_source_remove(TAKE_PTR(pair->source));
	event_timer_destroy(TAKE_PTR(pair->more));
	free(TAKE_PTR(pair->chains));
	free(TAKE_PTR(pair->written));
	free(TAKE_PTR(pair->rx_iov));
	free(TAKE_PTR(pair->more_iov));
	free(TAKE_PTR(pair->tx_iov));
	free(TAKE_PTR(pair->packet));
}

struct error *net_pair_attach(struct net_pair *pair)
{
	if (pair->source)
		return NULL;
	pair->events = 0;
	pair->starved = false;
	TRY(event_loop_add(pair->loop, pair->fd, 0, back_end_ready, pair, &pair->source));
	update_watch(pair);
	return NULL;
}

void net_pair_detach(struct net_pair *pair)
{
	event_source_remove(TAKE_PTR(pair->source));
	pair->events = 0;
	pair->tx_blocked = false;
	net_pair_flush(pair);
}

void net_pair_start(struct net_pair *pair, uint64_t features)
{
	pair->running = true;
	pair->starved = false;
	pair->tx_blocked = false;
	pair->features = features;
	pair->mergeable = features >> NET_F_MRG_RXBUF & 1;
	pair->checksums = features >> NET_F_GUEST_CSUM & 1;
	if (!usable(pair))
		return;
	virtqueue_notifications(pair->rx, false);
	if (pair->source)
		receive(pair);
	transmit(pair);
}

void net_pair_stop(struct net_pair *pair)
{
	pair->running = false;
	event_timer_cancel(pair->more);
	watch(pair, 0);
}

void net_pair_flush(struct net_pair *pair)
{
	pair->held = 0;
}

void net_pair_state(struct net_pair *pair, struct state *state)
{
	uint32_t held = state_count(state, "waiting packet", (uint32_t)pair->held, PACKET_SIZE);

	state_check(state, !held || held >= NET_HEADER_SIZE + NET_FRAME_MIN, "waiting packet",
		    "is shorter than a frame");
	state_check(state, !held || pair->source, "waiting packet", "is of a pair not in use");
	state_buffer(state, "packet", pair->packet, held);
	if (state_loading(state))
		pair->held = state_failed(state) ? 0 : held;
}

void net_pair_add_counters(const struct net_pair *pair, struct net_counters *sum)
{
	const struct net_counters *from = &pair->counters;

	sum->rx_packets += __atomic_load_n(&from->rx_packets, __ATOMIC_RELAXED);
	sum->rx_bytes += __atomic_load_n(&from->rx_bytes, __ATOMIC_RELAXED);
	sum->rx_dropped += __atomic_load_n(&from->rx_dropped, __ATOMIC_RELAXED);
	sum->tx_packets += __atomic_load_n(&from->tx_packets, __ATOMIC_RELAXED);
	sum->tx_bytes += __atomic_load_n(&from->tx_bytes, __ATOMIC_RELAXED);
	sum->tx_dropped += __atomic_load_n(&from->tx_dropped, __ATOMIC_RELAXED);
}
