/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The socket device of vsock.h: its queues, and what a packet from the guest leads to. The state of
 * a connection is in vsock_flow.c, the host's sockets in vsock_connection.c.
 *
 * A guest that sends but gives no receive buffers (5.10.6.1): answers that belong to a connection
 * are bits of that connection, others are kept in `resets`. When that is full the transmit queue
 * waits for receive buffers. So whatever a guest does, it makes us hold no more than
 * VSOCK_CONNECTIONS buffers and VSOCK_RESETS headers.
 *
 * Answers to what a guest gets wrong: a chain without a whole header, and a receive buffer without
 * room for one, are malformed (needs reset); a packet from another cid than its own is dropped, as
 * there is nobody to answer; everything else gets RST.
 *
 * Runs on the device's loop. The guest controls the packets, programs of the host when there is
 * something to send. System calls: mmap, munmap, unlink (creation and end).
 */
#include "virtio/vsock.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/iov.h"
#include "base/options.h"
#include "virtio/handed.h"
#include "virtio/vsock_connection.h"

#define BATCH 256

/* Feature bits (5.10.3). */
#define F_STREAM	    0
#define F_NO_IMPLIED_STREAM 2

#define CONFIG_SIZE 8 /* le64 guest_cid (5.10.4) */

#define EVENT_SIZE	      4 /* le32 id (5.10.6.7) */
#define EVENT_TRANSPORT_RESET 0

static struct virtio_vsock *vsock_of(struct virtio_device *device)
{
	return CONTAINER_OF(device, struct virtio_vsock, device);
}

static struct virtqueue *queue_of(struct virtio_vsock *vsock, enum vsock_queue queue)
{
	return &vsock->device.queues[queue].ring;
}

static bool usable(const struct virtio_vsock *vsock)
{
	return vsock->running && virtio_device_running(&vsock->device);
}

/* --- To the guest --- */

/* Room is checked before a packet is taken from the transmit queue. */
static void answer_reset(struct virtio_vsock *vsock, const struct vsock_header *packet)
{
	uint16_t slot = (vsock->reset_start + vsock->reset_count) % VSOCK_RESETS;

	if (packet->op == VSOCK_OP_RST)
		return;
	assert(vsock->reset_count < VSOCK_RESETS);
	vsock_header_reset(packet, &vsock->resets[slot]);
	vsock->reset_count++;
}

static void write_header(struct virtqueue_chain *chain, const struct vsock_header *header)
{
	uint8_t wire[VSOCK_HEADER_SIZE];

	vsock_header_encode(header, wire);
	if (!virtqueue_chain_write(chain, 0, wire, sizeof(wire)))
		assert(!"the size was checked");
}

/* Reads for the guest behind the header of @chain. The bytes read, 0 for none now. */
static uint32_t read_payload(struct vsock_connection *connection, struct virtqueue_chain *chain)
{
	uint64_t room =
	    MIN(chain->in_size - VSOCK_HEADER_SIZE, vsock_flow_peer_room(&connection->flow));
	struct iovec slice[VSOCK_IOV_MAX];
	uint16_t count = chain->in_count, first;
	uint32_t size;

	memcpy(slice, virtqueue_chain_in(chain), count * sizeof(*slice));
	first = iov_skip(slice, count, VSOCK_HEADER_SIZE);
	count = iov_truncate(slice + first, count - first, room);
	size = vsock_connection_read(connection, slice + first, count);
	virtqueue_chain_wrote(chain, size ? VSOCK_HEADER_SIZE + size : 0);
	return size;
}

/*
 * Puts the connection's next packet into @chain; returns its size, or 0 if it turned out that there
 * is none.
 */
static uint32_t fill(struct vsock_connection *connection, struct virtqueue_chain *chain)
{
	struct virtio_vsock *vsock = connection->vsock;
	struct vsock_flow *flow = &connection->flow;
	enum vsock_op op = vsock_flow_next(flow);
	struct vsock_header header;
	uint32_t size = 0;

	if (op == VSOCK_OP_RW && !vsock_flow_peer_room(flow)) {
		flow->pending &= ~VSOCK_SEND_DATA;
		if (!flow->credit_asked)
			flow->pending |= VSOCK_SEND_CREDIT_REQUEST;
		flow->credit_asked = true;
		return 0;
	}
	if (op == VSOCK_OP_RW)
		size = read_payload(connection, chain);
	if (op == VSOCK_OP_INVALID || (op == VSOCK_OP_RW && !size))
		return 0;
	vsock_flow_send(flow, op, size, vsock->cid, &header);
	write_header(chain, &header);
	if (flow->state == VSOCK_FREE)
		vsock_connection_release(connection);
	else if (op == VSOCK_OP_SHUTDOWN && flow->state == VSOCK_CLOSING)
		vsock_connection_end(connection);
	return VSOCK_HEADER_SIZE + size;
}

/* Fills @chain with whatever is due; its size, 0 if nothing is. */
static uint32_t fill_any(struct virtio_vsock *vsock, struct virtqueue_chain *chain)
{
	struct vsock_connection *connection;
	uint32_t size = 0;

	if (vsock->reset_count) {
		write_header(chain, &vsock->resets[vsock->reset_start]);
		vsock->reset_start = (vsock->reset_start + 1) % VSOCK_RESETS;
		vsock->reset_count--;
		return VSOCK_HEADER_SIZE;
	}
	/* A connection that turns out to have nothing leaves the line, so this ends. */
	while (!size && (connection = vsock->ready_first) != NULL) {
		vsock->ready_first = connection->next_ready;
		if (!vsock->ready_first)
			vsock->ready_end = &vsock->ready_first;
		connection->ready = false;
		size = fill(connection, chain);
		/* Back to the end of the line, so that each gets its turn. */
		if (connection->flow.state != VSOCK_FREE)
			vsock_connection_schedule(connection);
	}
	return size;
}

static bool something_due(const struct virtio_vsock *vsock)
{
	return vsock->reset_count || vsock->ready_first;
}

static void malformed(struct virtio_vsock *vsock, const char *reason)
{
	virtio_device_needs_reset(&vsock->device, reason);
}

void vsock_send(struct virtio_vsock *vsock)
{
	struct virtqueue *ring = queue_of(vsock, VSOCK_QUEUE_RX);
	struct virtqueue_chain chain = {.iov = vsock->rx_iov, .iov_max = VSOCK_IOV_MAX};
	int left = BATCH;

	if (!usable(vsock) || !something_due(vsock))
		return;
	if (vsock->rx_starved)
		virtqueue_notifications(ring, false);
	vsock->rx_starved = false;
	while (left && something_due(vsock)) {
		int popped = virtqueue_pop(ring, &chain);
		uint32_t size;

		if (popped < 0)
			return;
		if (!popped) {
			if (virtqueue_notifications(ring, true))
				continue;
			vsock->rx_starved = true; /* the doorbell resumes */
			break;
		}
		left--;
		/* A byte more than the header: else data could never be sent. */
		if (chain.in_size <= VSOCK_HEADER_SIZE) {
			virtqueue_discard(ring, &chain);
			malformed(vsock, "a receive buffer has no room for a packet");
			return;
		}
		size = fill_any(vsock, &chain);
		if (size)
			virtqueue_push(ring, &chain, size);
		else
			virtqueue_unpop(ring, &chain);
	}
	virtqueue_notify(ring);
	if (!left)
		event_timer_arm(vsock->more, 0);
	if (vsock->tx_stalled && vsock->reset_count < VSOCK_RESETS)
		event_timer_arm(vsock->more, 0);
}

/* --- From the guest --- */

/* The guest connects to a program of the host. */
static void open_to_host(struct virtio_vsock *vsock, const struct vsock_header *packet)
{
	struct vsock_connection *connection = vsock_connection_new(vsock);
	int fd = connection ? vsock_host_connect(vsock->path, packet->dst_port) : -EMFILE;

	if (fd < 0) {
		vsock->refused++;
		answer_reset(vsock, packet);
		return;
	}
	vsock_flow_accept(&connection->flow, packet);
	if (!vsock_connection_attach(connection, fd)) {
		answer_reset(vsock, packet);
		return;
	}
	vsock_connection_schedule(connection);
	vsock_listener_update(vsock);
}

static void deliver(struct vsock_connection *connection, const struct vsock_header *packet,
		    struct virtqueue_chain *chain)
{
	uint16_t first = iov_skip(chain->iov, chain->out_count, VSOCK_HEADER_SIZE);
	uint16_t count = iov_truncate(chain->iov + first, chain->out_count - first, packet->size);

	vsock_connection_deliver(connection, chain->iov + first, count, packet->size);
}

static void receive_for(struct vsock_connection *connection, const struct vsock_header *packet,
			struct virtqueue_chain *chain)
{
	switch (vsock_flow_receive(&connection->flow, packet)) {
	case VSOCK_NOTHING:
		break;
	case VSOCK_CONNECTED:
		vsock_connection_confirm(connection);
		return;
	case VSOCK_DATA:
		deliver(connection, packet, chain);
		break;
	case VSOCK_SHUT:
		vsock_connection_shut(connection);
		return;
	case VSOCK_CREDIT:
		break;
	case VSOCK_GONE:
		vsock_connection_forget(connection);
		return;
	case VSOCK_REFUSE:
		vsock_connection_refuse(connection);
		return;
	}
	/* Every packet brings the guest's credit. */
	vsock_connection_credit(connection);
}

static bool streams_allowed(const struct virtio_vsock *vsock)
{
	return !virtio_device_has(&vsock->device, F_NO_IMPLIED_STREAM) ||
	       virtio_device_has(&vsock->device, F_STREAM);
}

static void receive_packet(struct virtio_vsock *vsock, const struct vsock_header *packet,
			   struct virtqueue_chain *chain)
{
	struct vsock_connection *connection;

	if (packet->src_cid != vsock->cid) {
		vsock->dropped++;
		return;
	}
	if (packet->dst_cid != VSOCK_HOST_CID || packet->type != VSOCK_TYPE_STREAM ||
	    !streams_allowed(vsock)) {
		answer_reset(vsock, packet);
		return;
	}
	connection = vsock_connection_find(vsock, packet->src_port, packet->dst_port);
	if (packet->size > chain->out_size - VSOCK_HEADER_SIZE) {
		if (connection)
			vsock_connection_refuse(connection);
		else
			answer_reset(vsock, packet);
	} else if (connection) {
		receive_for(connection, packet, chain);
	} else if (packet->op == VSOCK_OP_REQUEST) {
		open_to_host(vsock, packet);
	} else {
		answer_reset(vsock, packet);
	}
}

static void receive_packets(struct virtio_vsock *vsock)
{
	struct virtqueue *ring = queue_of(vsock, VSOCK_QUEUE_TX);
	struct virtqueue_chain chain = {.iov = vsock->tx_iov, .iov_max = VSOCK_IOV_MAX};
	int left = BATCH;

	vsock->tx_stalled = false;
	virtqueue_notifications(ring, false);
	while (left) {
		uint8_t wire[VSOCK_HEADER_SIZE];
		struct vsock_header packet;
		int popped;

		if (vsock->reset_count == VSOCK_RESETS) {
			vsock->tx_stalled = true;
			break;
		}
		popped = virtqueue_pop(ring, &chain);
		if (popped < 0)
			return;
		if (!popped) {
			if (virtqueue_notifications(ring, true))
				continue;
			break;
		}
		left--;
		if (!virtqueue_chain_read(&chain, 0, wire, sizeof(wire))) {
			virtqueue_discard(ring, &chain);
			malformed(vsock, "a packet is shorter than its header");
			return;
		}
		vsock_header_decode(wire, &packet);
		receive_packet(vsock, &packet, &chain);
		virtqueue_push(ring, &chain, 0);
	}
	virtqueue_notify(ring);
	if (!left)
		event_timer_arm(vsock->more, 0);
	vsock_send(vsock);
}

static void more_work(void *context)
{
	struct virtio_vsock *vsock = context;

	if (usable(vsock))
		receive_packets(vsock);
}

/* --- Device operations --- */

static void vsock_config_read(struct virtio_device *device, uint32_t offset, void *data,
			      uint32_t size)
{
	uint8_t config[CONFIG_SIZE];

	put_le64(config, vsock_of(device)->cid);
	memcpy(data, config + offset, size);
}

/*
 * After a load: tells the driver that all connections are gone and that its cid may be another, as
 * soon as it gives a buffer for that.
 */
static void send_transport_reset(struct virtio_vsock *vsock)
{
	struct virtqueue *ring = queue_of(vsock, VSOCK_QUEUE_EVENT);
	struct virtqueue_chain chain = {.iov = vsock->rx_iov, .iov_max = VSOCK_IOV_MAX};
	uint8_t event[EVENT_SIZE];
	int popped;

	if (!vsock->loaded || !usable(vsock))
		return;
	virtqueue_notifications(ring, false);
	do {
		popped = virtqueue_pop(ring, &chain);
	} while (!popped && virtqueue_notifications(ring, true));
	if (popped <= 0)
		return;
	put_le32(event, EVENT_TRANSPORT_RESET);
	if (!virtqueue_chain_write(&chain, 0, event, sizeof(event))) {
		virtqueue_discard(ring, &chain);
		malformed(vsock, "an event buffer has no room for an event");
		return;
	}
	virtqueue_push(ring, &chain, sizeof(event));
	virtqueue_notify(ring);
	vsock->loaded = false;
}

static void vsock_resume(struct virtio_device *device)
{
	struct virtio_vsock *vsock = vsock_of(device);

	vsock->running = true;
	vsock_connections_update(vsock);
	/* Before any packet that the guest could take for one of an old connection. */
	send_transport_reset(vsock);
	/* The receive queue's doorbell matters only while something is due: vsock_send asks for it.
	 */
	virtqueue_notifications(queue_of(vsock, VSOCK_QUEUE_RX), false);
	receive_packets(vsock);
}

static void vsock_quiesce(struct virtio_device *device)
{
	struct virtio_vsock *vsock = vsock_of(device);

	vsock->running = false;
	event_timer_cancel(vsock->more);
	vsock_connections_update(vsock);
}

static void vsock_queue_notify(struct virtio_device *device, uint16_t queue)
{
	struct virtio_vsock *vsock = vsock_of(device);

	if (queue == VSOCK_QUEUE_TX && !vsock->tx_stalled)
		receive_packets(vsock);
	else if (queue == VSOCK_QUEUE_RX)
		vsock_send(vsock);
	else if (queue == VSOCK_QUEUE_EVENT)
		send_transport_reset(vsock);
}

static void vsock_reset(struct virtio_device *device)
{
	struct virtio_vsock *vsock = vsock_of(device);

	vsock->running = false;
	event_timer_cancel(vsock->more);
	for (uint32_t i = 0; i < VSOCK_CONNECTIONS; i++)
		if (vsock->connections[i].flow.state != VSOCK_FREE)
			vsock_connection_release(&vsock->connections[i]);
	vsock->reset_start = 0;
	vsock->reset_count = 0;
	vsock->tx_stalled = false;
	vsock->loaded = false;
	vsock_listener_update(vsock);
}

/* An answer to guest @cid that still waits for a receive buffer. */
static void answer_state(struct vsock_header *answer, uint64_t cid, struct state *state)
{
	answer->dst_cid = cid;
	state_u64(state, "answer source", &answer->src_cid);
	state_u32(state, "answer source port", &answer->src_port);
	state_u32(state, "answer destination port", &answer->dst_port);
	state_u16(state, "answer type", &answer->type);
	answer->op = VSOCK_OP_RST;
}

/*
 * Connections end here: their other halves are programs of this host. The machine that goes on
 * from the saved state hears of it by a transport reset, which also has the driver read its cid
 * again: it may differ. What is saved are answers to packets that belong to no connection, and
 * which port is free.
 */
static void vsock_state(struct virtio_device *device, struct state *state)
{
	struct virtio_vsock *vsock = vsock_of(device);
	uint16_t count;

	state_u32(state, "next port", &vsock->next_port);
	count = (uint16_t)state_count(state, "answers", vsock->reset_count, VSOCK_RESETS);
	for (uint16_t i = 0; i < count; i++)
		answer_state(&vsock->resets[(vsock->reset_start + i) % VSOCK_RESETS], vsock->cid,
			     state);
	if (!state_loading(state))
		return;
	vsock->reset_count = count;
	vsock->loaded = device->active;
}

static void vsock_describe(struct virtio_device *device, json_t *object)
{
	struct virtio_vsock *vsock = vsock_of(device);

	json_object_set_new(object, "cid", json_integer((json_int_t)vsock->cid));
	json_object_set_new(object, "path", json_string(vsock->path));
	json_object_set_new(object, "connections", json_integer(vsock->used));
	json_object_set_new(object, "opened", json_integer((json_int_t)vsock->opened));
	json_object_set_new(object, "refused", json_integer((json_int_t)vsock->refused));
	json_object_set_new(object, "dropped", json_integer((json_int_t)vsock->dropped));
}

static struct error *vsock_share(struct virtio_device *device, json_t *handed)
{
	struct virtio_vsock *vsock = vsock_of(device);

	vsock->shared = handed;
	if (handed)
		handed_put(handed, "listener", vsock->listener);
	return NULL;
}

/* Who connects waits for the other process. */
static void vsock_release(struct virtio_device *device)
{
	struct virtio_vsock *vsock = vsock_of(device);

	if (!vsock->shared)
		return;
	event_source_remove(TAKE_PTR(vsock->listener_source));
	vsock->away = true;
}

static struct error *vsock_take_over(struct virtio_device *device)
{
	struct virtio_vsock *vsock = vsock_of(device);

	if (vsock->away)
		TRY(vsock_listener_start(vsock));
	vsock->away = false;
	vsock_listener_update(vsock);
	return NULL;
}

static void vsock_destroy(struct virtio_device *device)
{
	struct virtio_vsock *vsock = vsock_of(device);

	for (uint32_t i = 0; vsock->connections && i < VSOCK_CONNECTIONS; i++)
		if (vsock->connections[i].flow.state != VSOCK_FREE)
			vsock_connection_release(&vsock->connections[i]);
	event_source_remove(TAKE_PTR(vsock->listener_source));
	event_timer_destroy(TAKE_PTR(vsock->timer));
	event_timer_destroy(TAKE_PTR(vsock->more));
	virtio_device_cleanup(device);
	if (vsock->listener >= 0 && !vsock->away)
		unlink(vsock->path);
	close_fd(&vsock->listener);
	if (vsock->buffers)
		munmap(vsock->buffers, (size_t)VSOCK_CONNECTIONS * VSOCK_BUFFER_SIZE);
	free(vsock->connections);
	free(vsock);
}

static const struct virtio_device_ops vsock_ops = {
    .type = "virtio-vsock",
    .id = VIRTIO_ID_VSOCK,
    .pci_class = 0x028000, /* network controller, other */
    .config_size = CONFIG_SIZE,
    .config_read = vsock_config_read,
    .activate = vsock_resume,
    .queue_notify = vsock_queue_notify,
    .reset = vsock_reset,
    .quiesce = vsock_quiesce,
    .resume = vsock_resume,
    .share = vsock_share,
    .release = vsock_release,
    .take_over = vsock_take_over,
    .describe = vsock_describe,
    .destroy = vsock_destroy,
};

static struct error *adopt_listener(struct virtio_vsock *vsock, json_t *handed)
{
	vsock->listener = handed_take(handed, "listener");
	vsock->shared = vsock->away = true;
	return vsock->listener < 0 ? error_new(EBADMSG, "its socket has not come along") : NULL;
}

static struct error *create_resources(struct virtio_vsock *vsock, json_t *handed)
{
	void *buffers =
	    mmap(NULL, (size_t)VSOCK_CONNECTIONS * VSOCK_BUFFER_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (buffers == MAP_FAILED)
		return error_system(errno, "buffers");
	vsock->buffers = buffers;
	vsock->connections = calloc(VSOCK_CONNECTIONS, sizeof(*vsock->connections));
	if (!vsock->connections)
		return error_system(ENOMEM, "connections");
	TRY(event_timer_create(vsock->device.loop, vsock_check_deadlines, vsock, &vsock->timer));
	TRY(event_timer_create(vsock->device.loop, more_work, vsock, &vsock->more));
	if (handed)
		return adopt_listener(vsock, handed);
	TRY(vsock_host_listen(vsock->path, &vsock->listener));
	return vsock_listener_start(vsock);
}

struct error *virtio_vsock_create(const char *text, struct virtio_device **device)
{
	return virtio_vsock_create_handed(text, NULL, device);
}

struct error *virtio_vsock_create_handed(const char *text, json_t *handed,
					 struct virtio_device **device)
{
	AUTO_OPTIONS struct options *options = NULL;
	AUTO_FREE struct virtio_vsock *vsock = calloc(1, sizeof(*vsock));
	const char *path, *id;
	struct error *error;

	if (!vsock)
		return error_system(ENOMEM, "virtio-vsock");
	TRY(options_parse(text, NULL, &options));
	TRY(options_take_number(options, "cid", 0xfffffffe, &vsock->cid));
	path = options_take(options, "path");
	id = options_take(options, "id");
	TRY(options_finish(options));
	if (vsock->cid <= VSOCK_HOST_CID)
		return error_usage("vsock '%s': cid must be given, 3 to 4294967294", text);
	if (!path || strlen(path) > VSOCK_PATH_MAX)
		return error_usage("vsock '%s': path must be given, at most %zu characters", text,
				   VSOCK_PATH_MAX);
	memcpy(vsock->path, path, strlen(path));
	vsock->listener = -1;
	vsock->ready_end = &vsock->ready_first;
	TRY(virtio_device_init(&vsock->device, &vsock_ops, vsock_state, id ? id : "vsock",
			       VSOCK_QUEUES, VSOCK_QUEUE_SIZE));
	vsock->device.features |= VIRTIO_FEATURE(F_STREAM) | VIRTIO_FEATURE(F_NO_IMPLIED_STREAM);
	error = create_resources(vsock, handed);
	if (error) {
		error = error_prefix(error, "virtio-vsock '%s'", vsock->device.id);
		vsock_destroy(&TAKE_PTR(vsock)->device);
		return error;
	}
	*device = &TAKE_PTR(vsock)->device;
	return NULL;
}

const char *virtio_vsock_path(const struct virtio_device *device)
{
	return CONTAINER_OF(device, struct virtio_vsock, device)->path;
}
