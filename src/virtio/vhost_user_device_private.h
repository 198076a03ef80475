/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Private to vhost_user_*.c of this folder: the device, and what its files ask of each other. All of it
 * runs on the device's loop unless it says otherwise.
 */
#ifndef GODWIT_VIRTIO_VHOST_USER_DEVICE_PRIVATE_H
#define GODWIT_VIRTIO_VHOST_USER_DEVICE_PRIVATE_H

#include <sys/uio.h>

#include "memory/dirty_log.h"
#include "vhost_user/front_end.h"
#include "virtio/net_control.h"
#include "virtio/vhost_user_device.h"

/* A kind of virtio device, as far as it matters that a back-end does its work. */
struct vhost_user_type {
	const char *name; /* "blk", for type= */
	const char *type; /* "vhost-user-blk" */
	uint16_t id;
	uint32_t pci_class;
	uint32_t config_size;
	uint16_t queues_before; /* queues in front of those that queues= counts */
	uint16_t queues;	/* default of queues= */
	/* Its back-ends have the configuration space. Otherwise it is `config` as made at creation. */
	bool config_theirs;
	uint32_t queues_field; /* where an le16 in it says how many queues; 0: nowhere */
	/*
	 * Requests are done in the order of the available ring, so that those under way when a
	 * back-end died can be found without an in-flight buffer.
	 */
	bool in_order;
	bool stateful; /* a back-end's successor cannot go on: the driver has to begin anew */
};

/* The type called @name; NULL: there is none. */
const struct vhost_user_type *vhost_user_type_find(const char *name);
/* That of devices with this number; for those that are not known one that assumes nothing. */
const struct vhost_user_type *vhost_user_type_numbered(uint16_t id);

struct vhost_user_ring {
	struct vhost_user_device *owner;
	int call; /* eventfd that the back-end writes to interrupt */
	struct event_source *call_source;
	uint32_t base; /* where it goes on, while it does not run */
	bool running;
	bool lost; /* its back-end has gone without saying where it was */
};

/* Where a back-end marks what it writes, while writes are logged. */
struct vhost_user_log {
	struct dirty_source source;
	bool added;
	int fd;
	uint64_t *words; /* little-endian, atomic; NULL: nothing is logged */
	uint64_t size;	 /* bytes */
};

struct vhost_user_device {
	struct virtio_device device;
	struct virtio_device_ops ops; /* what `device` uses: its own type, id, configuration size */
	struct vhost_user_type type;  /* a copy */
	char *socket;
	uint8_t config[VHOST_USER_CONFIG_MAX];
	struct vhost_user_ring *rings; /* one for each queue */
	uint16_t queues;	       /* those that the back-end works on */
	/* Of a network device (0 pairs: it is none): behind its pairs may be a control queue. */
	uint16_t pairs;
	struct net_control control;
	struct iovec control_iov[16];
	bool wanted; /* the driver has the device in use, and the machine runs: rings are to run */

	/* The session. */
	struct vhost_user_front_end *front; /* NULL: there is none */
	struct event_source *front_source, *backend_source;
	struct event_timer *retry;
	bool listen;   /* back-ends come to us */
	int listen_fd; /* -1: they do not, or not yet */
	struct event_source *listen_source;
	bool config_stale;	     /* the back-end has said so */
	bool memory_given;	     /* this session has the memory */
	uint64_t offered, protocol;  /* features of the last session */
	uint64_t sessions, messages; /* messages: of earlier sessions */
	int64_t pause_ns;	     /* until the next attempt */
	char trouble[256];	     /* why there is no session, or was none */
	struct rate_limit trouble_log;

	/* What the back-end is to hold. */
	struct memory_listener listener;
	bool listening;
	struct vhost_user_memory *memory;
	uint32_t blocks;
	struct vhost_user_log log;
	/* Memory that comes while the guest runs, and is not all there. */
	struct userfault *missing;	 /* who brings what is touched; NULL: all is there */
	struct userfault_remote *remote; /* of the session: its faults are served */
	bool postcopy_slots;		 /* an option: how the back-end is told of such memory */
	bool cannot_wait; /* the back-end has offered what it cannot do, it turned out */
	bool waits;	  /* it was said that the rings wait */
	int state_fd; /* where the back-end's state goes to it; -1: no such is under way. The loader's */
	/* Where it notes what is under way. */
	struct vhost_user_inflight inflight;
	int inflight_fd; /* -1: nowhere */
};

static inline struct vhost_user_device *vhost_user_device_of(struct virtio_device *device)
{
	return (struct vhost_user_device *)(void *)device;
}

/* --- vhost_user_shadow.c: memory ---------------------------------------------------------------- */

/* Follows the memory map from now on. Refused: memory that another process cannot map. */
struct error *vhost_user_shadow_begin(struct vhost_user_device *vhost) MUST_CHECK;
void vhost_user_shadow_end(struct vhost_user_device *vhost);

/* --- vhost_user_log.c: what the back-end writes --------------------------------------------------- */

/* Whether a back-end with these features can tell what it writes. */
bool vhost_user_log_offered(uint64_t features, uint64_t protocol);
/* Follows the log of writes from now on. */
void vhost_user_log_begin(struct vhost_user_device *vhost);
void vhost_user_log_end(struct vhost_user_device *vhost);
/* Before the first ring of a session, and again whenever rings start: the back-end marks, if it is to. */
struct error *vhost_user_log_give(struct vhost_user_device *vhost) MUST_CHECK;
/* A back-end has gone that may not have marked all. */
void vhost_user_log_lost(struct vhost_user_device *vhost);

/* --- vhost_user_faults.c: memory that is not there yet -------------------------------------------- */

/* virtio_device_ops.memory_comes. */
void vhost_user_faults_set(struct virtio_device *device, struct userfault *userfault);
/* Whether rings have to wait until all memory is there; says so. */
bool vhost_user_faults_wait(struct vhost_user_device *vhost);
/* Whether what the back-end holds cannot be changed now. */
bool vhost_user_faults_fixed(const struct vhost_user_device *vhost);
/* Gives a session its memory. */
struct error *vhost_user_faults_give_memory(struct vhost_user_device *vhost) MUST_CHECK;
/* The session ends. */
void vhost_user_faults_hang_up(struct vhost_user_device *vhost);

/* --- vhost_user_state.c: the back-end's own state -------------------------------------------------- */

extern const struct virtio_stream_ops vhost_user_stream_ops;

/* --- vhost_user_connection.c: sessions ----------------------------------------------------------- */

/*
 * Looks for the back-end for the first time: an error if it is there and will not do. From then on sessions
 * begin and end by themselves.
 */
struct error *vhost_user_connection_begin(struct vhost_user_device *vhost) MUST_CHECK;
/* Hangs up. The loop's thread has ended. */
void vhost_user_connection_end(struct vhost_user_device *vhost);
/*
 * A request has failed with @error, which is taken over, so that the back-end is not what it should be:
 * hangs up, notes why, and tries again later.
 */
void vhost_user_connection_failed(struct vhost_user_device *vhost, struct error *error);
/* Does what events during a request have asked for. At the end of whatever spoke to the back-end. */
void vhost_user_connection_settle(struct vhost_user_device *vhost);

/* --- vhost_user_net.c: what network devices have beyond their packets ---------------------------- */

/* Features for the driver of a network device, if a back-end offers @theirs. */
uint64_t vhost_user_net_features(const struct vhost_user_device *vhost, uint64_t theirs);
bool vhost_user_net_accept(struct virtio_device *device, uint64_t features);
/* Fills the configuration; `pairs` is set. */
void vhost_user_net_init(struct vhost_user_device *vhost, const uint8_t mac[6]);
/* The back-end has come or gone: to the driver the cable has. Also for devices without a cable. */
void vhost_user_net_link(struct vhost_user_device *vhost, bool up);
void vhost_user_net_reset(struct vhost_user_device *vhost);
/* The guest has come from elsewhere: has a back-end that can tell the network, with its MAC address. */
void vhost_user_net_announce(struct vhost_user_device *vhost);
/* Whether @ring is one that the driver uses; of other devices all are. */
bool vhost_user_net_enabled(const struct vhost_user_device *vhost, uint16_t ring);
/* Does what is in the control queue. */
void vhost_user_net_control(struct vhost_user_device *vhost);

/* --- vhost_user_rings.c ------------------------------------------------------------------------- */

struct error *vhost_user_rings_create(struct vhost_user_device *vhost) MUST_CHECK;
void vhost_user_rings_destroy(struct vhost_user_device *vhost);
/* Lets the rings run, if there is a back-end and the driver has them in use. */
void vhost_user_rings_start(struct vhost_user_device *vhost);
/* Stops all that run, requests under way done; what a back-end that fails meanwhile leaves is lost. */
void vhost_user_rings_stop(struct vhost_user_device *vhost);
/* The back-end is gone. */
void vhost_user_rings_lose(struct vhost_user_device *vhost);
/* The driver has reset the device: rings begin at their beginning, nothing is under way. */
void vhost_user_rings_reset(struct vhost_user_device *vhost);

#endif
