/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The one table of devices: which constructor makes what the user asks for. A device that is not
 * here does not exist. Runs on the main thread while the machine is built; each constructor reads
 * its own option text.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/options.h"
#include "machine/machine_private.h"
#include "virtio/balloon.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/handed.h"
#include "virtio/net.h"
#include "virtio/rdma.h"
#include "virtio/rng.h"
#include "virtio/vhost_user_device.h"
#include "virtio/vsock.h"

/* For constructors whose default id does not depend on the index: "disk" stays, the next ones are
 * "disk1", "disk2". */
static struct error *text_with_id(const char *text, const char *kind, uint32_t index, char **result)
{
	int length;

	if (!index || strstr(text, ",id="))
		length = asprintf(result, "%s", text);
	else
		length = asprintf(result, "%s,id=%s%u", text, kind, index);
	if (length >= 0)
		return NULL;
	*result = NULL;
	return error_system(ENOMEM, "--%s", kind);
}

static struct error *create_disk(struct machine *machine, const char *text, uint32_t index,
				 json_t *handed, struct virtio_device **device)
{
	AUTO_FREE char *named = NULL;

	if (vhost_user_device_wanted(text))
		return vhost_user_device_create("disk", text, "", index, device);
	TRY(text_with_id(text, "disk", index, &named));
	if (handed)
		return virtio_blk_create_handed(named, handed, device);
	return machine->config.incoming ? virtio_blk_create_unlocked(named, device)
					: virtio_blk_create(named, device);
}

static struct error *create_net(struct machine *machine, const char *text, uint32_t index,
				json_t *handed, struct virtio_device **device)
{
	const char *name = machine->config.name ?: "godwit";

	return vhost_user_device_wanted(text)
		   ? vhost_user_device_create("net", text, name, index, device)
		   : virtio_net_create_handed(text, name, index, handed, device);
}

/* On the console's own thread. */
static void leave(void *context)
{
	machine_attract(context, ATTENTION_LEAVE);
}

/* "BACKEND[,id=ID]", the backend as in chardev.h. */
static struct error *create_console(struct machine *machine, const char *text, uint32_t index,
				    json_t *handed, struct virtio_device **device)
{
	AUTO_OPTIONS struct options *options = NULL;
	struct chardev *backend;
	char default_id[32];
	const char *id, *where;

	TRY(options_parse(text, "backend", &options));
	where = options_take(options, "backend");
	id = options_take(options, "id");
	TRY(options_finish(options));
	if (!where)
		return error_usage("it needs a backend: tty, pty, null, file:PATH or unix:PATH");
	snprintf(default_id, sizeof(default_id), index ? "console%u" : "console", index);
	TRY(handed ? handed_take_chardev(handed, where, &backend)
		   : chardev_create(where, &backend));
	chardev_set_escape_handler(backend, leave, machine);
	return virtio_console_create(id ?: default_id, backend, device);
}

/* "[id=ID]". */
static struct error *create_rng(struct machine *machine, const char *text, uint32_t index,
				json_t *handed, struct virtio_device **device)
{
	AUTO_OPTIONS struct options *options = NULL;
	char default_id[32];
	const char *id = NULL;

	if (*text) {
		TRY(options_parse(text, NULL, &options));
		id = options_take(options, "id");
		TRY(options_finish(options));
	}
	snprintf(default_id, sizeof(default_id), index ? "rng%u" : "rng", index);
	return virtio_rng_create(id ?: default_id, device);
}

static struct error *create_balloon(struct machine *machine, const char *text, uint32_t index,
				    json_t *handed, struct virtio_device **device)
{
	if (index)
		return error_usage("a machine has one balloon: Linux inflates the first only");
	return virtio_balloon_create(*text ? text : NULL, device);
}

static struct error *create_vsock(struct machine *machine, const char *text, uint32_t index,
				  json_t *handed, struct virtio_device **device)
{
	if (index)
		return error_usage("a machine has one socket device: a guest has one address");
	return virtio_vsock_create_handed(text, handed, device);
}

static struct error *create_fs(struct machine *machine, const char *text, uint32_t index,
			       json_t *handed, struct virtio_device **device)
{
	return vhost_user_device_create("fs", text, "", index, device);
}

static struct error *create_vhost_user(struct machine *machine, const char *text, uint32_t index,
				       json_t *handed, struct virtio_device **device)
{
	return vhost_user_device_create("vhost-user", text, "", index, device);
}

struct mac_request {
	struct virtio_device *net;
	uint8_t mac[6];
};

static void read_mac(void *context)
{
	struct mac_request *request = context;

	virtio_device_read_config(request->net, 0, request->mac, sizeof(request->mac));
}

/* The network interface @id, or the first one for NULL, and its MAC address. */
static struct error *find_net(struct machine *machine, const char *id, struct mac_request *found)
{
	for (uint32_t i = 0; i < machine->device_count; i++) {
		struct virtio_device *device = machine->devices[i].device;

		if (device->ops->id != VIRTIO_ID_NET || (id && strcmp(device->id, id) != 0))
			continue;
		found->net = device;
		event_loop_call(device->loop, read_mac, found);
		return NULL;
	}
	return id ? error_usage("there is no --net with id=%s before it", id)
		  : error_usage("there is no --net before it, whose addresses it could have");
}

/* "net=ID[,id=ID]" or "udp:ADDRESS[,net=ID][,id=ID]". */
static struct error *create_rdma(struct machine *machine, const char *text, uint32_t index,
				 json_t *handed, struct virtio_device **device)
{
	AUTO_OPTIONS struct options *options = NULL;
	const char *port, *net, *id;
	struct virtio_rdma_port opened;
	struct mac_request found;
	char default_id[32];

	TRY(options_parse(text, "port", &options));
	port = options_take(options, "port");
	net = options_take(options, "net");
	id = options_take(options, "id");
	TRY(options_finish(options));
	if (port ? strncmp(port, "udp:", 4) != 0 : !net)
		return error_usage(
		    "it needs a port: net=ID, the interface --net with that id, or udp:ADDRESS");
	TRY(find_net(machine, net, &found));
	TRY(port ? virtio_rdma_udp_port_open(port + 4, machine->config.incoming, &opened)
		 : virtio_rdma_tap_port_open(found.net, &opened));
	snprintf(default_id, sizeof(default_id), index ? "rdma%u" : "rdma", index);
	return virtio_rdma_create(id ?: default_id, found.mac, &opened, device);
}

static const struct {
	const char *kind;
	/*
	 * @text is what follows --disk and so on; empty if the machine itself adds the device.
	 * @handed: what of it comes from another process, or NULL (virtio/handed.h).
	 */
	struct error *(*create)(struct machine *machine, const char *text, uint32_t index,
				json_t *handed, struct virtio_device **device);
} device_kinds[] = {
    {"disk", create_disk},	 {"net", create_net},
    {"console", create_console}, {"balloon", create_balloon},
    {"vsock", create_vsock},	 {"rng", create_rng},
    {"fs", create_fs},		 {"vhost-user", create_vhost_user},
    {"rdma", create_rdma},
};

struct error *device_table_create(struct machine *machine,
				  const struct machine_device_config *config, uint32_t index,
				  struct virtio_device **device)
{
	const char *text = config->text ?: "";

	for (size_t i = 0; i < ARRAY_SIZE(device_kinds); i++)
		if (!strcmp(device_kinds[i].kind, config->kind))
			return error_prefix(
			    device_kinds[i].create(machine, text, index,
						   machine_hand_device(machine, config), device),
			    "--%s %s", config->kind, text);
	return error_usage("there is no device of the kind '%s'", config->kind);
}
