/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The RDMA device (docs/virtio-rdma.md): the engine of rdma/ between the guest's queues and a port.
 *
 * Everything happens in turns on the device's loop, which packets, kicks, commands and the engine's
 * timer start: work requests go to the engine, packets leave and come, completions are written, and
 * what the driver is to be told goes to its event buffers. A turn is limited; when there is more to do
 * another one follows at once, after what else the loop has to handle.
 *
 * The guest controls commands, kicks and every byte of its queues; peers control packets. Neither can
 * reach memory that is not the guest's, nor make the device use more of the host's than limits in
 * rdma_private.h say. Creation can fail.
 *
 * A device that is quiesced hears nothing of its peers, and they nothing of it: to them packets are lost
 * until it goes on, here or elsewhere.
 */
#include <errno.h>
#include <sys/epoll.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"
#include "virtio/rdma_private.h"

#define QUEUE_SIZE	    256
#define CONFIG_SIZE	    88U
#define FEATURE_RXE_QUEUES  0
#define EVENT_SIZE	    16U
#define KICK_SIZE	    8U
#define KICK_MAX	    512U
#define KICK_SENDS	    1U
#define KICK_RECEIVES	    2U
#define ROUNDS		    16U	      /* of the engine and of what comes, in a turn */
#define READY_PATIENCE	    NS_PER_MS /* when the port has no room, and says so too late */
#define PORT_UP		    1U
#define NUMBER_LAST	    0x7fffffU /* keys have 24 bits, and so have queue pairs */
#define CLASS_NETWORK_OTHER 0x028000

/* --- Packets ----------------------------------------------------------------------------------- */

bool virtio_rdma_may_send_from(const struct virtio_rdma *rdma, const uint8_t gid[16])
{
	static const uint8_t none[16];

	return memcmp(gid, none, sizeof(none)) != 0 &&
	       rdma->port.sends_from(rdma->port.context, gid);
}

void virtio_rdma_set_mac(struct virtio_rdma *rdma, const uint8_t mac[6])
{
	memcpy(rdma->mac, mac, sizeof(rdma->mac));
	if (rdma->port.set_mac)
		rdma->port.set_mac(rdma->port.context, mac);
}

void virtio_rdma_set_gid(struct virtio_rdma *rdma, uint32_t index, const uint8_t gid[16])
{
	memcpy(rdma->gids[index], gid, sizeof(rdma->gids[index]));
	if (rdma->port.set_address)
		rdma->port.set_address(rdma->port.context, index, gid);
}

static uint8_t *reserve(void *context, const struct godwit_rdma_ends *ends, uint32_t size)
{
	struct virtio_rdma *rdma = context;
	const struct godwit_rdma_port *packets = &rdma->port.packets;

	/* From an address that the port does not have packets are lost. */
	rdma->discards = !virtio_rdma_may_send_from(rdma, ends->source);
	return rdma->discards ? rdma->discarded : packets->reserve(packets->context, ends, size);
}

static void commit(void *context)
{
	struct virtio_rdma *rdma = context;

	if (!rdma->discards)
		rdma->port.packets.commit(rdma->port.packets.context);
}

static void flush(void *context)
{
	struct virtio_rdma *rdma = context;

	if (rdma->port.packets.flush)
		rdma->port.packets.flush(rdma->port.packets.context);
}

static bool is_own(void *context, const uint8_t address[16])
{
	const struct virtio_rdma *rdma = context;

	for (uint32_t i = 0; i < GIDS_MAX; i++)
		if (!memcmp(rdma->gids[i], address, 16))
			return true;
	return false;
}

/* --- Events ------------------------------------------------------------------------------------ */

/* Of the engine. */
static void event(void *context, const struct godwit_rdma_event *event)
{
	static const uint8_t pair_events[] = {
	    [GODWIT_RDMA_EVENT_ESTABLISHED] = EVENT_COMM_EST,
	    [GODWIT_RDMA_EVENT_DRAINED] = EVENT_SQ_DRAINED,
	    [GODWIT_RDMA_EVENT_LAST_RECEIVE] = EVENT_QP_LAST_WQE_REACHED,
	    [GODWIT_RDMA_EVENT_BAD_REQUEST] = EVENT_QP_REQ_ERR,
	    [GODWIT_RDMA_EVENT_BAD_ACCESS] = EVENT_QP_ACCESS_ERR,
	    [GODWIT_RDMA_EVENT_FATAL] = EVENT_QP_FATAL,
	};
	struct virtio_rdma *rdma = context;
	struct adapter_pair *pair;

	if (!event->pair || event->type >= ARRAY_SIZE(pair_events))
		return;
	pair = adapter_pair_find(rdma, godwit_rdma_pair_number(event->pair));
	/* That the first packet has come is news only before the driver goes on from there. */
	if (event->type == GODWIT_RDMA_EVENT_ESTABLISHED &&
	    godwit_rdma_pair_state(event->pair) != GODWIT_RDMA_RTR)
		return;
	if (pair)
		adapter_object_event(rdma, &pair->object, pair_events[event->type]);
}

/* Tells the driver as much as it has buffers for. */
static void tell(struct virtio_rdma *rdma)
{
	struct virtio_device *device = &rdma->device;
	struct virtqueue *ring = &device->queues[QUEUE_EVENTS].ring;
	struct iovec buffers[4];
	struct virtqueue_chain chain = {.iov = buffers, .iov_max = ARRAY_SIZE(buffers)};
	uint32_t type, number;
	bool told = false;

	while (rdma->events && ring->enabled && virtio_device_running(device) &&
	       virtqueue_pop(ring, &chain) > 0) {
		uint8_t record[EVENT_SIZE] = {0};

		if (chain.in_size < EVENT_SIZE) {
			virtqueue_discard(ring, &chain);
			virtio_device_needs_reset(device, "a buffer for events is too short");
			return;
		}
		adapter_object_next_event(rdma, &type, &number);
		put_le32(record, type);
		put_le32(record + 4, number);
		if (!virtqueue_chain_write(&chain, 0, record, sizeof(record)))
			log_debug("%s: an event has no place", device->id);
		virtqueue_push(ring, &chain, sizeof(record));
		told = true;
	}
	if (told)
		virtqueue_notify(ring);
}

/* --- Turns ------------------------------------------------------------------------------------- */

static void watch(struct virtio_rdma *rdma)
{
	event_source_set_events(rdma->source,
				EPOLLIN | (rdma->port.waits(rdma->port.context) ? EPOLLOUT : 0));
}

static void stop(struct virtio_device *device)
{
	struct virtio_rdma *rdma = virtio_rdma_of(device);

	if (rdma->source)
		event_source_set_events(rdma->source, 0);
	event_timer_cancel(rdma->timer);
}

static void take_turn(struct virtio_rdma *rdma)
{
	struct virtio_device *device = &rdma->device;
	int64_t now = 0, next = 0;
	bool came = true, blocked;
	int section;

	/* Packets would wake the loop of a device that needs a reset over and over. */
	if (!virtio_device_running(device)) {
		stop(device);
		return;
	}
	section = memory_read_begin(device->map);
	for (uint32_t round = 0; round < ROUNDS && (came || next <= now || rdma->feed); round++) {
		now = clock_monotonic_ns();
		came = rdma->port.receive(rdma->port.context, rdma->engine, now);
		adapter_pairs_feed(rdma);
		next = godwit_rdma_poll(rdma->engine, now);
		if (rdma->port.waits(rdma->port.context))
			break;
	}
	memory_read_end(device->map, section);
	tell(rdma);
	blocked = rdma->port.waits(rdma->port.context);
	watch(rdma);
	if (rdma->feed || (next <= now && !blocked))
		event_timer_arm(rdma->timer, 0);
	else if (next <= now)
		event_timer_arm(rdma->timer, READY_PATIENCE);
	else if (next == GODWIT_RDMA_NEVER)
		event_timer_cancel(rdma->timer);
	else
		event_timer_arm(rdma->timer, next - now);
}

static void timer_ended(void *context)
{
	take_turn(context);
}

static void port_ready(void *context, uint32_t events)
{
	take_turn(context);
}

/* An entry of a kick. Numbers that name nothing are old ones. */
static void take_kick(struct virtio_rdma *rdma, const uint8_t *entry)
{
	struct adapter_pair *pair = adapter_pair_find(rdma, get_le32(entry + 4));
	uint32_t kind = get_le32(entry);

	if (pair && kind == KICK_SENDS)
		adapter_pair_will_feed(pair);
	else if (pair && kind == KICK_RECEIVES)
		godwit_rdma_pair_receives_wait(pair->pair);
}

static void take_kicks(struct virtio_rdma *rdma)
{
	struct virtio_device *device = &rdma->device;
	struct virtqueue *ring = &device->queues[QUEUE_KICK].ring;
	struct iovec buffers[8];
	struct virtqueue_chain chain = {.iov = buffers, .iov_max = ARRAY_SIZE(buffers)};
	uint8_t entries[KICK_MAX];

	while (virtio_device_running(device) && virtqueue_pop(ring, &chain) > 0) {
		uint32_t size = (uint32_t)MIN(chain.out_size, (uint64_t)KICK_MAX);

		if (chain.out_size > KICK_MAX || !virtqueue_chain_read(&chain, 0, entries, size)) {
			virtqueue_discard(ring, &chain);
			virtio_device_needs_reset(device, "a kick is too long");
			return;
		}
		/* Used before its queues are looked at: what is posted later is kicked anew. */
		virtqueue_push(ring, &chain, 0);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		for (uint32_t at = 0; at + KICK_SIZE <= size; at += KICK_SIZE)
			take_kick(rdma, entries + at);
	}
}

static void run_kicks(struct virtio_rdma *rdma)
{
	struct virtio_device *device = &rdma->device;
	struct virtqueue *ring = &device->queues[QUEUE_KICK].ring;
	int section = memory_read_begin(device->map);

	do {
		virtqueue_notifications(ring, false);
		take_kicks(rdma);
		virtqueue_notify(ring);
	} while (virtio_device_running(device) && virtqueue_notifications(ring, true));
	memory_read_end(device->map, section);
}

static void queue_notify(struct virtio_device *device, uint16_t index)
{
	struct virtio_rdma *rdma = virtio_rdma_of(device);

	if (index == QUEUE_CONTROL)
		adapter_commands_run(rdma);
	else if (index == QUEUE_KICK)
		run_kicks(rdma);
	take_turn(rdma);
}

/* --- The device -------------------------------------------------------------------------------- */

static void config_read(struct virtio_device *device, uint32_t offset, void *data, uint32_t size)
{
	const struct virtio_rdma *rdma = virtio_rdma_of(device);
	const uint8_t *mac = rdma->mac;
	const uint8_t guid[8] = {mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]};
	uint8_t config[CONFIG_SIZE] = {0};

	memcpy(config, mac, 6);
	put_le16(config + 6, GIDS_MAX);
	put_le32(config + 8, PORT_UP);
	put_le32(config + 12, 4096);
	memcpy(config + 16, guid, sizeof(guid));
	put_le32(config + 24, PAIRS_MAX + 1);
	put_le32(config + 28, COMPLETIONS_MAX);
	put_le32(config + 32, SHARED_MAX);
	put_le32(config + 36, DOMAINS_MAX);
	put_le32(config + 40, REGIONS_MAX);
	put_le32(config + 44, WINDOWS_MAX);
	put_le32(config + 48, QUEUE_SLOTS_MAX);
	put_le32(config + 52, CQ_SLOTS_MAX);
	put_le32(config + 56, SEGMENTS_MAX);
	put_le32(config + 60, INLINE_MAX);
	put_le32(config + 64, GODWIT_RDMA_READS_MAX);
	put_le32(config + 68, FAST_PAGES_MAX);
	put_le32(config + 72, COMMAND_MAX);
	put_le32(config + 76, GODWIT_RDMA_MESSAGE_MAX);
	put_le64(config + 80, UINT64_MAX);
	memcpy(data, config + offset, size);
}

static bool accept_features(struct virtio_device *device, uint64_t features)
{
	return features & VIRTIO_FEATURE(FEATURE_RXE_QUEUES);
}

static void start(struct virtio_device *device)
{
	struct virtio_rdma *rdma = virtio_rdma_of(device);
	int section;

	if (rdma->copied) {
		section = memory_read_begin(device->map);
		adapter_pairs_disconnect(rdma);
		memory_read_end(device->map, section);
		rdma->copied = false;
	}
	take_turn(rdma);
}

static void free_window(struct virtio_rdma *rdma, struct adapter_object *object)
{
	if (CONTAINER_OF(object, struct adapter_key, object)->window)
		adapter_key_free(rdma, object);
}

/* What uses others goes first. */
static void reset(struct virtio_device *device)
{
	static const uint8_t none[16];
	struct virtio_rdma *rdma = virtio_rdma_of(device);

	stop(device);
	if (rdma->general)
		adapter_pair_free(rdma, &rdma->general->object);
	adapter_numbers_each(&rdma->pairs, rdma, adapter_pair_free);
	adapter_numbers_each(&rdma->shared, rdma, adapter_shared_free);
	adapter_numbers_each(&rdma->keys, rdma, free_window);
	adapter_numbers_each(&rdma->keys, rdma, adapter_key_free);
	adapter_numbers_each(&rdma->completions, rdma, adapter_completions_free);
	adapter_numbers_each(&rdma->domains, rdma, adapter_domain_free);
	for (uint32_t i = 0; i < GIDS_MAX; i++)
		virtio_rdma_set_gid(rdma, i, none);
}

/* --- Moving ------------------------------------------------------------------------------------ */

static struct error *watch_port(struct virtio_rdma *rdma)
{
	return event_loop_add(rdma->device.loop, rdma->port.fd, 0, port_ready, rdma, &rdma->source);
}

static void release(struct virtio_device *device)
{
	struct virtio_rdma *rdma = virtio_rdma_of(device);

	if (!rdma->port.release || !rdma->source)
		return;
	event_source_remove(TAKE_PTR(rdma->source));
	rdma->port.release(rdma->port.context);
}

static struct error *take_over(struct virtio_device *device)
{
	struct virtio_rdma *rdma = virtio_rdma_of(device);
	struct error *error;

	if (!rdma->port.take_over || rdma->source)
		return NULL;
	TRY(error_prefix(rdma->port.take_over(rdma->port.context, &rdma->port), "virtio-rdma '%s'",
			 device->id));
	error = watch_port(rdma);
	if (error)
		rdma->port.release(rdma->port.context);
	return error;
}

static void new_generation(struct virtio_device *device)
{
	virtio_rdma_of(device)->copied = true;
}

static uint32_t count(const struct adapter_numbers *numbers)
{
	uint32_t found = 0;

	for (uint32_t i = 0; i < numbers->capacity; i++)
		found += numbers->objects[i] != NULL;
	return found;
}

static void describe(struct virtio_device *device, json_t *object)
{
	const struct virtio_rdma *rdma = virtio_rdma_of(device);
	struct godwit_rdma_counters counters;

	godwit_rdma_get_counters(rdma->engine, &counters);
	json_object_set_new(object, "port", json_string(rdma->port.name));
	json_object_set_new(object, "queue-pairs",
			    json_integer(count(&rdma->pairs) + (rdma->general != NULL)));
	json_object_set_new(object, "regions", json_integer(rdma->regions));
	json_object_set_new(object, "commands", json_integer((json_int_t)rdma->commands));
	json_object_set_new(object, "commands-refused",
			    json_integer((json_int_t)rdma->refused_commands));
	json_object_set_new(object, "packets-received",
			    json_integer((json_int_t)counters.received));
	json_object_set_new(object, "packets-sent", json_integer((json_int_t)counters.sent));
	json_object_set_new(object, "retransmissions",
			    json_integer((json_int_t)counters.retransmissions));
	json_object_set_new(object, "requests-refused", json_integer((json_int_t)counters.refused));
	if (rdma->port.describe)
		rdma->port.describe(rdma->port.context, object);
}

/* Undoes as much as was made. */
static void destroy(struct virtio_device *device)
{
	struct virtio_rdma *rdma = virtio_rdma_of(device);

	if (rdma->engine)
		reset(device);
	godwit_rdma_destroy(rdma->engine);
	event_timer_destroy(rdma->timer);
	event_source_remove(rdma->source);
	free(rdma->taken.bytes);
	rdma->port.close(rdma->port.context);
	adapter_numbers_free(&rdma->domains);
	adapter_numbers_free(&rdma->completions);
	adapter_numbers_free(&rdma->shared);
	adapter_numbers_free(&rdma->pairs);
	adapter_numbers_free(&rdma->keys);
	virtio_device_cleanup(device);
	free(rdma);
}

static const struct virtio_device_ops rdma_ops = {
    .type = "virtio-rdma",
    .id = VIRTIO_ID_RDMA,
    .pci_class = CLASS_NETWORK_OTHER,
    .config_size = CONFIG_SIZE,
    .config_read = config_read,
    .accept_features = accept_features,
    .activate = start,
    .queue_notify = queue_notify,
    .reset = reset,
    .quiesce = stop,
    .resume = start,
    .release = release,
    .take_over = take_over,
    .new_generation = new_generation,
    .describe = describe,
    .destroy = destroy,
};

/* Everything but the common part. */
static struct error *make(struct virtio_rdma *rdma)
{
	const struct godwit_rdma_options options = {
	    .port = {.reserve = reserve, .commit = commit, .flush = flush, .context = rdma},
	    .event = event,
	    .is_own = is_own,
	    .context = rdma};
	struct event_loop *loop = rdma->device.loop;

	rdma->device.features |= VIRTIO_FEATURE(FEATURE_RXE_QUEUES);
	TRY(event_timer_create(loop, timer_ended, rdma, &rdma->timer));
	if (rdma->port.fd >= 0)
		TRY(watch_port(rdma));
	if (!adapter_numbers_init(&rdma->domains, DOMAINS_MAX, NUMBER_LAST) ||
	    !adapter_numbers_init(&rdma->completions, COMPLETIONS_MAX, NUMBER_LAST) ||
	    !adapter_numbers_init(&rdma->shared, SHARED_MAX, NUMBER_LAST) ||
	    !adapter_numbers_init(&rdma->pairs, PAIRS_MAX, NUMBER_LAST) ||
	    !adapter_numbers_init(&rdma->keys, REGIONS_MAX + WINDOWS_MAX, NUMBER_LAST) ||
	    godwit_rdma_create(&options, &rdma->engine))
		return error_system(ENOMEM, "its tables");
	return NULL;
}

struct error *virtio_rdma_create(const char *id, const uint8_t mac[6],
				 const struct virtio_rdma_port *port, struct virtio_device **device)
{
	struct virtio_rdma *rdma = calloc(1, sizeof(*rdma));
	struct error *error;

	if (!rdma) {
		port->close(port->context);
		return error_system(ENOMEM, "virtio-rdma '%s'", id);
	}
	error = virtio_device_init(&rdma->device, &rdma_ops, virtio_rdma_visit_state, id,
				   QUEUE_COUNT, QUEUE_SIZE);
	if (error) {
		port->close(port->context);
		free(rdma);
		return error;
	}
	rdma->device.stream = &virtio_rdma_stream_ops;
	rdma->port = *port;
	virtio_rdma_set_mac(rdma, mac);
	error = make(rdma);
	if (error) {
		destroy(&rdma->device);
		return error_prefix(error, "virtio-rdma '%s'", id);
	}
	*device = &rdma->device;
	return NULL;
}
