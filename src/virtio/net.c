/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The network device of net.h: configuration, control queue, and which queue pairs are in use. The
 * data path is in net_pair.c, what control commands mean in net_control.c, the interface in tap.c.
 *
 * Queues (5.1.2): 2k receives and 2k + 1 transmits for pair k; the control queue is behind the last
 * pair that the driver knows of. That is queue 2 if it did not negotiate MQ, where otherwise pair 1
 * is: its commands then run on that pair's loop. The control state therefore has a lock, and only
 * VQ_PAIRS_SET, which such a driver cannot send, calls other loops.
 *
 * Receive filters are the kernel's (TUNSETTXFILTER): unwanted frames never reach us. VLAN filters,
 * the extra receive modes and announcements by the guest are not offered: after a load the device
 * announces the guest itself.
 *
 * What can fail after creation: ioctls on an interface that was deleted, which takes the link down.
 * The guest controls the control commands; each is answered OK or ERR, and one without room for the
 * answer is malformed.
 */
#include "virtio/net.h"

#include <ctype.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/log.h"
#include "base/options.h"
#include "virtio/net_announce.h"
#include "virtio/net_control.h"
#include "virtio/net_pair.h"

#define BIT(n)	      VIRTIO_FEATURE(n)
#define SPEED	      10000 /* Mbit/s, as Linux's tap driver says of itself */
#define FULL_DUPLEX   1
#define LINK_UP	      1
#define CONTROL_BATCH 64

/* Configuration layout (5.1.4), little-endian. */
enum config_offset {
	CONFIG_MAC = 0,
	CONFIG_STATUS = 6,
	CONFIG_MAX_PAIRS = 8,
	CONFIG_MTU = 10,
	CONFIG_SPEED = 12,
	CONFIG_DUPLEX = 16,
	CONFIG_SIZE = 17,
};

struct virtio_net {
	struct virtio_device device; /* first: the device is cast back */
	struct tap tap;
	uint8_t mac[6]; /* given; the driver may have set another */
	uint16_t mtu;
	bool link_up;
	struct net_pair *pairs;
	uint16_t pair_count;
	bool own_loops; /* each pair has a loop and a thread */
	struct event_loop *loops[TAP_QUEUES_MAX];
	struct iovec control_iov[NET_IOV_MAX];
	pthread_mutex_t lock; /* guards `control`, see above */
	struct net_control control;
	struct net_announce announce;
	bool announce_due; /* a state was loaded, and the device not resumed since */
	struct net_taker taker;
};

static struct virtio_net *net_of(struct virtio_device *device)
{
	return CONTAINER_OF(device, struct virtio_net, device);
}

/* The control queue's index, as the driver sees it. */
static uint16_t control_queue(const struct virtio_net *net)
{
	return virtio_device_has(&net->device, NET_F_MQ) ? 2 * net->pair_count : 2;
}

/* --- Calls to the pairs' loops --- */

struct pair_call {
	struct virtio_net *net;
	struct net_pair *pair;
	bool done;
};

static void call_pair(struct virtio_net *net, uint16_t index, event_callback callback,
		      struct pair_call *call)
{
	*call = (struct pair_call){.net = net, .pair = &net->pairs[index]};
	event_loop_call(call->pair->loop, callback, call);
}

/* For all pairs: without MQ only the first one is the driver's, but the others are idle anyway. */
static void call_pairs(struct virtio_net *net, event_callback callback)
{
	struct pair_call call;

	for (uint16_t i = 0; i < net->pair_count; i++)
		call_pair(net, i, callback, &call);
}

static void start_on_loop(void *context);

static void start_pairs(struct virtio_net *net)
{
	struct pair_call call;

	/* Without MQ what would be pair 1 is the control queue, which is not to be silenced. */
	if (virtio_device_has(&net->device, NET_F_MQ))
		call_pairs(net, start_on_loop);
	else
		call_pair(net, 0, start_on_loop, &call);
}

static void start_on_loop(void *context)
{
	struct pair_call *call = context;

	net_pair_start(call->pair, call->net->device.driver_features);
}

static void stop_on_loop(void *context)
{
	struct pair_call *call = context;

	net_pair_stop(call->pair);
}

static void reset_on_loop(void *context)
{
	struct pair_call *call = context;

	net_pair_stop(call->pair);
	net_pair_flush(call->pair);
}

static uint32_t index_of(const struct pair_call *call)
{
	return (uint32_t)(call->pair - call->net->pairs);
}

static void detach_on_loop(void *context)
{
	struct pair_call *call = context;

	net_pair_detach(call->pair);
	if (tap_attach_queue(&call->net->tap, index_of(call), false))
		log_debug("%s: queue %u was not detached", call->net->device.id, index_of(call));
}

static void attach_on_loop(void *context)
{
	struct pair_call *call = context;
	AUTO_ERROR struct error *error = NULL;
	int result = tap_attach_queue(&call->net->tap, index_of(call), true);

	if (result)
		error =
		    error_system(-result, "queue %u of '%s'", index_of(call), call->net->tap.name);
	else
		error = net_pair_attach(call->pair);
	if (error)
		log_warning("%s: %s", call->net->device.id, error_message(error));
	call->done = !error;
}

/* Uses pairs [0, @wanted) instead of [0, @current). False, with nothing changed, if that is not
 * possible. */
static bool use_pairs(struct virtio_net *net, uint16_t current, uint16_t wanted)
{
	struct pair_call call;

	for (uint16_t i = current; i < wanted; i++) {
		call_pair(net, i, attach_on_loop, &call);
		if (!call.done) {
			while (i-- > current)
				call_pair(net, i, detach_on_loop, &call);
			return false;
		}
	}
	for (uint16_t i = current; i > wanted; i--)
		call_pair(net, i - 1, detach_on_loop, &call);
	return true;
}

static void set_taker_on_loop(void *context)
{
	const struct pair_call *call = context;

	call->pair->taker = call->net->taker;
}

/* --- Control queue --- */

static void apply_filter(struct virtio_net *net, const struct net_control *control)
{
	uint8_t macs[NET_CONTROL_FILTER_MACS][6];
	bool all_multicast;
	uint16_t count = net_control_filter(control, macs, &all_multicast);

	/* A filter is best effort (5.1.6.5.1): without one more arrives than was asked for. */
	if (tap_set_filter(&net->tap, (const uint8_t(*)[6])macs, count, all_multicast) &&
	    tap_set_filter(&net->tap, NULL, 0, true))
		log_debug("%s: no receive filter", net->device.id);
}

/* Executes one command. The lock is held. */
static bool execute(struct virtio_net *net, const struct virtqueue_chain *chain)
{
	struct net_control next = net->control;
	unsigned int changed;

	if (!net_control_execute(&next, net->device.driver_features, net->pair_count, chain,
				 &changed))
		return false;
	if (changed & NET_CONTROL_PAIRS && !use_pairs(net, net->control.pairs, next.pairs))
		return false;
	if (changed & NET_CONTROL_OFFLOADS &&
	    tap_set_offloads(&net->tap, net_tap_offloads(next.offloads)))
		return false;
	if (changed & NET_CONTROL_FILTER)
		apply_filter(net, &next);
	net->control = next;
	return true;
}

static void run_control_later(void *context);

static void run_control(struct virtio_net *net)
{
	uint16_t index = control_queue(net);
	struct virtqueue *ring = &net->device.queues[index].ring;
	struct virtqueue_chain chain = {.iov = net->control_iov, .iov_max = NET_IOV_MAX};
	int popped = 0, left = CONTROL_BATCH;

	do {
		virtqueue_notifications(ring, false);
		while (left && (popped = virtqueue_pop(ring, &chain)) > 0) {
			uint8_t answer;

			left--;
			pthread_mutex_lock(&net->lock);
			answer = execute(net, &chain) ? NET_CONTROL_OK : NET_CONTROL_ERR;
			pthread_mutex_unlock(&net->lock);
			if (!virtqueue_chain_write(&chain, 0, &answer, 1)) {
				virtqueue_discard(ring, &chain);
				virtio_device_needs_reset(
				    &net->device, "a control command has no room for its answer");
				return;
			}
			virtqueue_push(ring, &chain, 1);
		}
	} while (left && popped == 0 && virtqueue_notifications(ring, true));
	virtqueue_notify(ring);
	/* Commands can take the kernel's network lock: let the loop do other work in between. */
	if (!left && event_loop_post(net->device.queues[index].loop, run_control_later, net))
		virtqueue_notifications(ring, true);
}

static void run_control_later(void *context)
{
	struct virtio_net *net = context;

	if (virtio_device_running(&net->device))
		run_control(net);
}

/* --- Device operations --- */

static void net_config_read(struct virtio_device *device, uint32_t offset, void *data,
			    uint32_t size)
{
	struct virtio_net *net = net_of(device);
	uint8_t config[CONFIG_SIZE];

	pthread_mutex_lock(&net->lock);
	memcpy(config + CONFIG_MAC, net->control.mac, 6);
	pthread_mutex_unlock(&net->lock);
	put_le16(config + CONFIG_STATUS, net->link_up ? LINK_UP : 0);
	put_le16(config + CONFIG_MAX_PAIRS, net->pair_count);
	put_le16(config + CONFIG_MTU, net->mtu);
	put_le32(config + CONFIG_SPEED, SPEED);
	config[CONFIG_DUPLEX] = FULL_DUPLEX;
	memcpy(data, config + offset, size);
}

static bool net_accept_features(struct virtio_device *device, uint64_t features)
{
	return net_features_valid(features);
}

static void reset_control(struct virtio_net *net, uint64_t features)
{
	pthread_mutex_lock(&net->lock);
	net_control_reset(&net->control, net->mac, features);
	apply_filter(net, &net->control);
	pthread_mutex_unlock(&net->lock);
	if (tap_set_offloads(&net->tap, net_tap_offloads(features)))
		log_warning("%s: the interface refused offloads", net->device.id);
}

static void net_activate(struct virtio_device *device)
{
	struct virtio_net *net = net_of(device);

	reset_control(net, device->driver_features);
	start_pairs(net);
}

static void net_queue_notify(struct virtio_device *device, uint16_t queue)
{
	struct virtio_net *net = net_of(device);

	/* In this order: without MQ the control queue is where pair 1 would be. */
	if (queue == control_queue(net)) {
		if (virtio_device_has(device, NET_F_CTRL_VQ))
			run_control(net);
		return;
	}
	if (queue / 2 >= net->pair_count)
		return;
	if (queue % 2)
		net_pair_notify_tx(&net->pairs[queue / 2]);
	else
		net_pair_notify_rx(&net->pairs[queue / 2]);
}

static void net_reset(struct virtio_device *device)
{
	struct virtio_net *net = net_of(device);

	/* Also waits for a control command on the loop of pair 1. */
	call_pairs(net, reset_on_loop);
	net_announce_stop(&net->announce);
	net->announce_due = false;
	use_pairs(net, net->control.pairs, 1);
	if (device->active)
		reset_control(net, 0);
}

static void net_quiesce(struct virtio_device *device)
{
	call_pairs(net_of(device), stop_on_loop);
	net_announce_stop(&net_of(device)->announce);
}

static void net_resume(struct virtio_device *device)
{
	struct virtio_net *net = net_of(device);

	start_pairs(net);
	if (net->announce_due)
		net_announce_start(&net->announce, net->control.mac);
	net->announce_due = false;
}

struct pair_state_call {
	struct net_pair *pair;
	struct state *state;
};

static void pair_state_on_loop(void *context)
{
	const struct pair_state_call *call = context;

	net_pair_state(call->pair, call->state);
}

/* Makes the interface follow @next, which was loaded. */
static void load_control(struct virtio_net *net, const struct net_control *next,
			 struct state *state)
{
	int result;

	if (!use_pairs(net, net->control.pairs, next->pairs)) {
		state_fail(state, error_new(EIO, "the interface '%s' has no %u queues",
					    net->tap.name, next->pairs));
		return;
	}
	result = tap_set_offloads(&net->tap, net_tap_offloads(next->offloads));
	if (result)
		state_fail(state,
			   error_system(-result, "the offloads of interface '%s'", net->tap.name));
	pthread_mutex_lock(&net->lock);
	apply_filter(net, next);
	net->control = *next;
	pthread_mutex_unlock(&net->lock);
}

/*
 * The address that the driver knows goes with the state: without mac= another name of the machine
 * would make it another one.
 */
static void net_state(struct virtio_device *device, struct state *state)
{
	struct virtio_net *net = net_of(device);
	struct net_control control = net->control;
	bool link_up = net->link_up;

	state_buffer(state, "own mac", net->mac, sizeof(net->mac));
	state_check(state, !(net->mac[0] & 1), "own mac", "is no unicast address");
	state_same(state, "mtu", net->mtu);
	state_bool(state, "link", &link_up);
	net_control_state(&control, device->active ? device->driver_features : 0, net->pair_count,
			  state);
	if (state_loading(state) && !state_failed(state)) {
		load_control(net, &control, state);
		net->announce_due = device->active;
		if (link_up != net->link_up)
			__atomic_fetch_add(&device->config_generation, 1, __ATOMIC_RELEASE);
	}
	for (uint16_t i = 0; i < net->pair_count; i++) {
		struct pair_state_call call = {.pair = &net->pairs[i], .state = state};

		event_loop_call(call.pair->loop, pair_state_on_loop, &call);
	}
}

static void net_describe(struct virtio_device *device, json_t *object)
{
	struct virtio_net *net = net_of(device);
	struct net_counters sum = {0};
	struct net_control control;
	char mac[18];

	pthread_mutex_lock(&net->lock);
	control = net->control;
	pthread_mutex_unlock(&net->lock);
	for (uint16_t i = 0; i < net->pair_count; i++)
		net_pair_add_counters(&net->pairs[i], &sum);
	snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", control.mac[0], control.mac[1],
		 control.mac[2], control.mac[3], control.mac[4], control.mac[5]);
	json_object_set_new(object, "interface", json_string(net->tap.name));
	json_object_set_new(object, "mac", json_string(mac));
	json_object_set_new(object, "link", json_boolean(net->link_up));
	json_object_set_new(object, "queue-pairs", json_integer(net->pair_count));
	json_object_set_new(object, "queue-pairs-in-use", json_integer(control.pairs));
	json_object_set_new(object, "promiscuous", json_boolean(control.promiscuous));
	json_object_set_new(object, "rx-packets", json_integer((json_int_t)sum.rx_packets));
	json_object_set_new(object, "rx-bytes", json_integer((json_int_t)sum.rx_bytes));
	json_object_set_new(object, "rx-dropped", json_integer((json_int_t)sum.rx_dropped));
	json_object_set_new(object, "tx-packets", json_integer((json_int_t)sum.tx_packets));
	json_object_set_new(object, "tx-bytes", json_integer((json_int_t)sum.tx_bytes));
	json_object_set_new(object, "tx-dropped", json_integer((json_int_t)sum.tx_dropped));
}

static struct error *net_share(struct virtio_device *device, json_t *handed)
{
	tap_share(&net_of(device)->tap, handed);
	return NULL;
}

static void net_release(struct virtio_device *device)
{
	tap_release(&net_of(device)->tap);
}

static struct error *net_take_over(struct virtio_device *device)
{
	tap_take_over(&net_of(device)->tap);
	return NULL;
}

static void net_destroy(struct virtio_device *device)
{
	struct virtio_net *net = net_of(device);

	for (uint16_t i = 0; net->own_loops && i < net->pair_count; i++)
		event_loop_join(net->loops[i]);
	for (uint16_t i = 0; net->pairs && i < net->pair_count; i++)
		net_pair_cleanup(&net->pairs[i]);
	free(net->pairs);
	net_announce_cleanup(&net->announce);
	virtio_device_cleanup(device);
	for (uint16_t i = 0; i < TAP_QUEUES_MAX; i++)
		event_loop_destroy(net->loops[i]);
	tap_close(&net->tap);
	pthread_mutex_destroy(&net->lock);
	free(net);
}

static const struct virtio_device_ops net_ops = {
    .type = "virtio-net",
    .id = VIRTIO_ID_NET,
    .pci_class = 0x020000, /* Ethernet controller */
    .config_size = CONFIG_SIZE,
    .config_read = net_config_read,
    .accept_features = net_accept_features,
    .activate = net_activate,
    .queue_notify = net_queue_notify,
    .reset = net_reset,
    .quiesce = net_quiesce,
    .resume = net_resume,
    .share = net_share,
    .release = net_release,
    .take_over = net_take_over,
    .describe = net_describe,
    .destroy = net_destroy,
};

struct error *virtio_net_share_frames(struct virtio_device *device, const struct net_taker *taker,
				      int *fd, bool *cuts)
{
	struct virtio_net *net = net_of(device);

	if (device->ops != &net_ops)
		return error_usage(
		    "'%s' is the interface of a back-end, which has its frames; only "
		    "one with tap: can be shared",
		    device->id);
	if (net->taker.take)
		return error_usage("the frames of '%s' are shared already", device->id);
	*fd = fcntl(net->tap.fds[0], F_DUPFD_CLOEXEC, 0);
	if (*fd < 0)
		return error_system(errno, "the interface of '%s'", device->id);
	*cuts = net->tap.offloads & TUN_F_USO4;
	net->taker = *taker;
	call_pairs(net, set_taker_on_loop);
	return NULL;
}

void virtio_net_keep_frames(struct virtio_device *device)
{
	struct virtio_net *net = net_of(device);

	net->taker = (struct net_taker){0};
	call_pairs(net, set_taker_on_loop);
}

/* --- Creation --- */

static void link_down(void *context)
{
	struct virtio_net *net = context;

	if (!net->link_up)
		return;
	log_warning("%s: the interface '%s' is gone, the guest's link is down", net->device.id,
		    net->tap.name);
	net->link_up = false;
	virtio_device_config_changed(&net->device);
}

/* On the loop of the pair that noticed. */
static void back_end_lost(void *context)
{
	struct virtio_net *net = context;

	if (event_loop_post(net->device.loop, link_down, net))
		log_error("%s: the interface '%s' is gone", net->device.id, net->tap.name);
}

static uint64_t offered_features(const struct virtio_net *net)
{
	uint64_t features = BIT(NET_F_CSUM) | BIT(NET_F_HOST_TSO4) | BIT(NET_F_HOST_TSO6) |
			    BIT(NET_F_HOST_ECN) | BIT(NET_F_CTRL_GUEST_OFFLOADS) | BIT(NET_F_MAC) |
			    BIT(NET_F_MRG_RXBUF) | BIT(NET_F_STATUS) | BIT(NET_F_CTRL_VQ) |
			    BIT(NET_F_CTRL_RX) | BIT(NET_F_CTRL_MAC_ADDR) | BIT(NET_F_SPEED_DUPLEX);
	unsigned int offloads = net->tap.offloads;

	if (offloads & TUN_F_CSUM)
		features |= BIT(NET_F_GUEST_CSUM);
	if (offloads & TUN_F_TSO4)
		features |= BIT(NET_F_GUEST_TSO4);
	if (offloads & TUN_F_TSO6)
		features |= BIT(NET_F_GUEST_TSO6);
	if (offloads & TUN_F_TSO_ECN)
		features |= BIT(NET_F_GUEST_ECN);
	if (offloads & TUN_F_UFO)
		features |= BIT(NET_F_GUEST_UFO) | BIT(NET_F_HOST_UFO);
	if (offloads & TUN_F_USO4)
		features |= BIT(NET_F_GUEST_USO4) | BIT(NET_F_GUEST_USO6) | BIT(NET_F_HOST_USO);
	if (net->pair_count > 1)
		features |= BIT(NET_F_MQ);
	if (net->mtu)
		features |= BIT(NET_F_MTU);
	return features;
}

static struct error *create_pairs(struct virtio_net *net)
{
	net->pairs = calloc(net->pair_count, sizeof(*net->pairs));
	if (!net->pairs)
		return error_system(ENOMEM, "queue pairs");
	for (uint16_t i = 0; i < net->pair_count; i++) {
		struct virtio_queue *queues = &net->device.queues[2 * i];

		if (net->own_loops) {
			TRY(event_loop_create(&net->loops[i]));
			queues[0].loop = queues[1].loop = net->loops[i];
		}
		TRY(net_pair_init(&net->pairs[i], &net->device, &queues[0].ring, &queues[1].ring,
				  queues[0].loop, net->tap.fds[i], back_end_lost, net));
	}
	TRY(net_announce_init(&net->announce, net->device.loop, net->tap.fds[0]));
	TRY(net_pair_attach(&net->pairs[0]));
	for (uint16_t i = 1; i < net->pair_count; i++) {
		int result = tap_attach_queue(&net->tap, i, false);

		if (result)
			return error_system(-result, "cannot detach queue %u of '%s'", i,
					    net->tap.name);
	}
	for (uint16_t i = 0; net->own_loops && i < net->pair_count; i++) {
		char name[48];

		snprintf(name, sizeof(name), "%.10s.%u", net->device.id, i);
		TRY(event_loop_start_thread(net->loops[i], name));
	}
	return NULL;
}

struct error *virtio_net_create_on_tap(const struct virtio_net_options *options, struct tap *tap,
				       struct virtio_device **device)
{
	struct virtio_net *net = calloc(1, sizeof(*net));
	struct error *error;

	if (!net) {
		tap_close(tap);
		return error_system(ENOMEM, "virtio-net '%s'", options->id);
	}
	net->tap = *tap;
	tap_init(tap);
	memcpy(net->mac, options->mac, sizeof(net->mac));
	net->mtu = options->mtu;
	net->link_up = true;
	net->pair_count = net->tap.queue_count;
	net->own_loops = net->pair_count > 1 && !options->on_device_loop;
	net_control_reset(&net->control, net->mac, 0);
	error = virtio_device_init(&net->device, &net_ops, net_state, options->id,
				   2 * net->pair_count + 1, NET_QUEUE_SIZE);
	if (error) {
		tap_close(&net->tap);
		free(net);
		return error;
	}
	pthread_mutex_init(&net->lock, NULL);
	net->device.features |= offered_features(net);
	error = create_pairs(net);
	if (error) {
		net_destroy(&net->device);
		return error_prefix(error, "virtio-net '%s'", options->id);
	}
	*device = &net->device;
	return NULL;
}

struct error *virtio_net_parse_mac(const char *text, uint8_t mac[6])
{
	static const uint8_t none[6];
	static const char digits[] = "0123456789abcdef";
	const char *cursor = text;

	for (int i = 0; i < 12; i++) {
		const char *digit = *cursor ? strchr(digits, tolower(*cursor)) : NULL;

		if (!digit)
			return error_usage("mac: '%s' is not of the form 52:54:00:12:34:56", text);
		mac[i / 2] = (uint8_t)(mac[i / 2] << 4 | (digit - digits));
		cursor++;
		if (i % 2 && i < 11 && *cursor++ != ':')
			return error_usage("mac: '%s' is not of the form 52:54:00:12:34:56", text);
	}
	if (*cursor)
		return error_usage("mac: '%s' is not of the form 52:54:00:12:34:56", text);
	if (mac[0] & 1 || memcmp(mac, none, 6) == 0)
		return error_usage(
		    "mac: '%s' is a multicast or empty address; a device needs a unicast "
		    "one",
		    text);
	return NULL;
}

void virtio_net_default_mac(const char *vm_name, uint32_t index, uint8_t mac[6])
{
	uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */
	uint8_t index_bytes[4];

	for (const char *c = vm_name; *c; c++)
		hash = (hash ^ (uint8_t)*c) * 0x100000001b3;
	put_le32(index_bytes, index);
	for (int i = 0; i < 4; i++)
		hash = (hash ^ index_bytes[i]) * 0x100000001b3;
	for (int i = 0; i < 6; i++)
		mac[i] = (uint8_t)(hash >> (16 + 8 * i));
	mac[0] = (mac[0] & 0xfc) | 0x02; /* unicast, locally administered */
}

static struct error *open_tap(struct tap *tap, const char *name, uint32_t queues, uint16_t mtu)
{
	struct error *error;

	TRY(tap_open(tap, name, queues));
	error = mtu ? tap_set_mtu(tap, mtu) : NULL;
	if (error)
		tap_close(tap);
	return error;
}

static struct error *adopt_tap(struct tap *tap, json_t *handed, uint32_t queues)
{
	struct error *error = tap_adopt(tap, handed);

	if (!error && tap->queue_count != queues)
		error = error_new(EBADMSG, "%u queues of its tap interface have come along",
				  tap->queue_count);
	if (error)
		tap_close(tap);
	return error;
}

struct error *virtio_net_create(const char *text, const char *vm_name, uint32_t index,
				struct virtio_device **device)
{
	return virtio_net_create_handed(text, vm_name, index, NULL, device);
}

struct error *virtio_net_create_handed(const char *text, const char *vm_name, uint32_t index,
				       json_t *handed, struct virtio_device **device)
{
	AUTO_OPTIONS struct options *options = NULL;
	struct virtio_net_options net = {0};
	uint64_t queues = 1, mtu = 0;
	const char *back_end, *mac;
	char default_id[16];
	struct error *error;
	struct tap tap;

	TRY(options_parse(text, "back-end", &options));
	back_end = options_take(options, "back-end");
	mac = options_take(options, "mac");
	net.id = options_take(options, "id");
	TRY(options_take_number(options, "queues", TAP_QUEUES_MAX, &queues));
	TRY(options_take_number(options, "mtu", 65535, &mtu));
	TRY(options_finish(options));
	if (!back_end || (strncmp(back_end, "tap:", 4) != 0 && strcmp(back_end, "tap") != 0))
		return error_usage("network device '%s': the back-end must be tap:INTERFACE", text);
	if (!queues)
		return error_usage("network device '%s': queues must be at least 1", text);
	if (mtu && mtu < 68)
		return error_usage("network device '%s': mtu must be at least 68", text);
	if (mac)
		TRY(virtio_net_parse_mac(mac, net.mac));
	else
		virtio_net_default_mac(vm_name, index, net.mac);
	snprintf(default_id, sizeof(default_id), "net%u", index);
	if (!net.id)
		net.id = default_id;
	net.mtu = (uint16_t)mtu;
	error = handed ? adopt_tap(&tap, handed, (uint32_t)queues)
		       : open_tap(&tap, back_end[3] ? back_end + 4 : "", (uint32_t)queues, net.mtu);
	if (error)
		return error_prefix(error, "network device '%s'", net.id);
	if (!back_end[3] || !back_end[4])
		log_info("network device '%s' uses interface '%s'", net.id, tap.name);
	return virtio_net_create_on_tap(&net, &tap, device);
}
