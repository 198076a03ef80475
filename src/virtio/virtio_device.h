/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A virtio device, independent of its transport: the operations table that every device implements,
 * and what the transport and the device say to each other.
 *
 * Threads: a device owns an event loop (`loop`) with a thread of its own, started by the machine.
 * ALL operations below run on that thread (the transport carries a vCPU's register accesses there
 * with event_loop_call), so a device needs no locks. A device with several workers gives single
 * queues another loop (`queues[i].loop`); `quiesce`, `reset` and `activate` must then stop and
 * start the work there.
 *
 * Errors: a guest's malformed request calls virtio_device_needs_reset: the device stops using its
 * queues, tells the driver, and counts it. It never stops the VMM.
 */
#ifndef GODWIT_VIRTIO_VIRTIO_DEVICE_H
#define GODWIT_VIRTIO_VIRTIO_DEVICE_H

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "base/state.h"
#include "memory/memory_map.h"
#include "virtio/virtqueue.h"

/* Feature bits of every device (virtio 1.2 section 6). */
#define VIRTIO_F_INDIRECT_DESC	 28
#define VIRTIO_F_EVENT_IDX	 29
#define VIRTIO_F_VERSION_1	 32
#define VIRTIO_F_ACCESS_PLATFORM 33
#define VIRTIO_F_RING_PACKED	 34
#define VIRTIO_F_RING_RESET	 40

/* Device status bits (section 2.1). */
#define VIRTIO_STATUS_ACKNOWLEDGE 0x01
#define VIRTIO_STATUS_DRIVER	  0x02
#define VIRTIO_STATUS_DRIVER_OK	  0x04
#define VIRTIO_STATUS_FEATURES_OK 0x08
#define VIRTIO_STATUS_NEEDS_RESET 0x40
#define VIRTIO_STATUS_FAILED	  0x80

/* Device ids (section 5). */
#define VIRTIO_ID_NET	  1
#define VIRTIO_ID_BLOCK	  2
#define VIRTIO_ID_CONSOLE 3
#define VIRTIO_ID_RNG	  4
#define VIRTIO_ID_BALLOON 5
#define VIRTIO_ID_VSOCK	  19
#define VIRTIO_ID_MEM	  24
#define VIRTIO_ID_RDMA	  42

#define VIRTIO_FEATURE(bit) (1ULL << (bit))

/* How a machine is taken along. */
enum virtio_move {
	VIRTIO_MOVE_STOPPED, /* it stands still, or the device rests, while its memory is read */
	VIRTIO_MOVE_LOGGED,  /* it runs meanwhile, and writes are logged (memory/dirty_log.h) */
	VIRTIO_MOVE_HANDED,  /* it goes on in another process of this host (`share`) */
};

struct userfault;

struct virtio_device_ops {
	const char *type;     /* "virtio-blk" */
	uint16_t id;	      /* VIRTIO_ID_* */
	uint32_t pci_class;   /* 24-bit class code for the PCI transport */
	uint32_t config_size; /* bytes of device-specific configuration */

	/* Reads or writes bytes of the device configuration; the range is inside config_size. */
	void (*config_read)(struct virtio_device *device, uint32_t offset, void *data,
			    uint32_t size);
	void (*config_write)(struct virtio_device *device, uint32_t offset, const void *data,
			     uint32_t size); /* NULL: read-only */
	/*
	 * Before the transport is made and the loop has a thread; `map` is set. What this says about
	 * the device (features, configuration) a driver can see from the start. NULL: nothing to do.
	 */
	struct error *(*realize)(struct virtio_device *device);
	/* May refuse the driver's feature set (FEATURES_OK then stays clear). NULL: any subset will do. */
	bool (*accept_features)(struct virtio_device *device, uint64_t features);
	/* DRIVER_OK: features and enabled queues are final. While the device is quiesced it comes only at its end. */
	void (*activate)(struct virtio_device *device);
	/* The driver wrote to the queue's notify address, or there may be work after a pause. */
	void (*queue_notify)(struct virtio_device *device, uint16_t queue);
	/*
	 * Stop using queues and drop or finish what is in flight; state as after creation (not
	 * quiesced). Also called without activate before it.
	 */
	void (*reset)(struct virtio_device *device);
	/* The whole machine is reset; every device's `reset` has run. NULL: nothing to do. */
	void (*system_reset)(struct virtio_device *device);
	/*
	 * Stop touching guest memory, in-flight requests completed, until `resume` (or `reset`).
	 * Only between activate and reset, and never twice. After `resume` comes a queue_notify for
	 * each enabled queue.
	 */
	void (*quiesce)(struct virtio_device *device);
	void (*resume)(struct virtio_device *device);
	/*
	 * For a machine that moves to another process, while quiesced; NULL: there is nothing of the kind.
	 * sync: what the guest has written is where whoever opens the same storage finds it. release:
	 * gives back what only one process may hold (the lock of a disk); take_over: takes it, again
	 * or, after a constructor that was told to leave it, for the first time.
	 */
	struct error *(*sync)(struct virtio_device *device);
	void (*release)(struct virtio_device *device);
	struct error *(*take_over)(struct virtio_device *device);
	/*
	 * Before any of these, and while the device works: the process is one of this host, and is
	 * given in @handed (virtio/handed.h) what of the device it goes on with, by descriptor.
	 * Both have it, and only who has the device uses it: between release and take_over the
	 * other one. @handed is NULL at the end, in the one that has the device then.
	 */
	struct error *(*share)(struct virtio_device *device, json_t *handed);
	/*
	 * From now on the device may find guest memory that is not there yet, and @userfault brings what
	 * is touched; NULL: all is there. NULL: it makes no difference, for the device touches memory
	 * through this process's mapping alone.
	 */
	void (*memory_comes)(struct virtio_device *device, struct userfault *userfault);
	/*
	 * The machine is a copy of one that may go on too, or go on again: what others know the device
	 * by is not its alone. While quiesced. NULL: it makes no difference.
	 */
	void (*new_generation)(struct virtio_device *device);
	/*
	 * Why the device cannot be taken along, NULL if it can. Any thread that may wait for the
	 * device's loop. NULL: it always can.
	 */
	struct error *(*movable)(struct virtio_device *device, enum virtio_move how);
	/* Adds device-specific facts to a report for `query-virtio`. NULL: none. */
	void (*describe)(struct virtio_device *device, json_t *object);
	void (*destroy)(struct virtio_device *device);
};

/* Takes bytes of a stream; may wait for room. An error: nobody wants the rest. */
typedef struct error *(*virtio_emit)(void *context, const void *bytes, size_t size);

/*
 * State that is large, or not this process's to visit: a *stream* of bytes that only the device
 * understands. It travels beside the state that is visited (virtio_device_init), piece by piece, and
 * nobody ever holds all of it; at the other end it is loaded as it comes, before the state is visited
 * and before guest memory is there. In a snapshot it is one section, and at most as large as those
 * may be.
 *
 * These run on threads of whoever saves or loads, never on the device's loop nor while that waits
 * for them: one call at a time for a device, several devices at once. They must not wait without a limit
 * for anything but @emit and the device's loop: nobody could interrupt them.
 */
struct virtio_stream_ops {
	/*
	 * Emits what the other end does not have yet, in pieces of any size, from any thread, one piece
	 * at a time, until this returns. @stopped: all that is left, the device is quiesced; it may go
	 * on afterwards, and may be saved again. Else the guest runs: what can be said now and is not
	 * expected to change soon, perhaps nothing. That comes once a round of memory, if there are any.
	 */
	struct error *(*save)(struct virtio_device *device, bool stopped, virtio_emit emit,
			      void *context);
	/*
	 * No more of what `save` began is wanted: the guest has moved, or stays, and runs perhaps. The
	 * next `save` begins from the start. NULL: nothing to do.
	 */
	void (*end_save)(struct virtio_device *device);
	/*
	 * The next @size bytes of what was emitted, cut anywhere; @size may be 0. @last: there are no
	 * more. No driver has touched the device. After an error, or without a last piece, it is
	 * only destroyed.
	 */
	struct error *(*load)(struct virtio_device *device, const void *bytes, size_t size,
			      bool last);
};

/* Why a device is quiesced; a bit each. */
enum virtio_quiesce_reason {
	VIRTIO_QUIESCE_MACHINE = 1,    /* the machine is paused */
	VIRTIO_QUIESCE_BUS_MASTER = 2, /* the guest turned bus mastering off */
	VIRTIO_QUIESCE_ABANDONED = 4,  /* it did so while the device was in use */
	VIRTIO_QUIESCE_HELD = 8,       /* memory is watched for writes, and its are not seen */
};

struct virtio_queue {
	struct virtqueue ring;
	struct event_loop *loop; /* where queue_notify runs; default: the device's loop */
	int notify_fd;		 /* eventfd written by the guest's doorbell (transport's) */
	bool remote; /* another process waits for the doorbell; set before the transport is made */
	struct event_source *notify_source; /* transport's */
};

/* What a device asks of its transport. Callable on any of the device's threads. */
struct virtio_transport_ops {
	void (*interrupt_queue)(void *transport, uint16_t queue);
	void (*interrupt_config)(void *transport);
	/*
	 * From now on a write to @fd, an eventfd that stays the device's, may interrupt the driver for
	 * @queue in place of interrupt_queue, without waking this process. As that cannot always be
	 * (a masked vector, a host without it), the device goes on watching @fd, and calls
	 * interrupt_queue for what it finds in it. -1: no longer. Device's loop. NULL: it never can.
	 */
	void (*connect_queue)(void *transport, uint16_t queue, int fd);
	/*
	 * The transport's part of virtio_device_state_part, behind that of the device; on the
	 * caller's thread, the device is quiesced. After a load the doorbells of a device with
	 * DRIVER_OK work. NULL: it has none.
	 */
	void (*state)(void *transport, struct state *state);
};

struct virtio_device {
	const struct virtio_device_ops *ops;
	/* NULL: it has no stream. Set in `realize` at the latest, and not changed. */
	const struct virtio_stream_ops *stream;
	char id[32];		/* the user's name for it, unique in the machine */
	struct memory_map *map; /* set by the machine before realize of the transport */
	struct event_loop *loop;
	uint64_t features;	  /* offered; the device sets its own bits at creation */
	uint64_t loadable;	  /* not offered, but a driver that is loaded may have them */
	uint64_t driver_features; /* negotiated, valid after FEATURES_OK */
	uint8_t status;		  /* written on the device's loop, read anywhere */
	uint32_t config_generation;
	struct virtio_queue *queues;
	uint16_t queue_count;
	bool foreign;		 /* it writes to guest memory through another process's mapping */
	bool quiesced;		 /* for any reason */
	uint8_t quiesce_reasons; /* enum virtio_quiesce_reason; device's loop */
	bool active;		 /* ops->activate was called since the last reset */
	/*
	 * The device is not there yet: the status register reads as that of a device whose reset is
	 * not over, and takes nothing but resets (section 2.4). Set and cleared by the device, on its
	 * loop; read anywhere.
	 */
	bool absent;
	bool loaded; /* with a state, and not resumed since; private to virtio_device*.c */
	/* See virtio_device_init. */
	void (*state)(struct virtio_device *device, struct state *state);
	pthread_mutex_t lock; /* guards the next three */
	uint64_t violations;  /* how often the guest misbehaved, since start */
	char last_violation[96];
	struct rate_limit violation_log;
	const struct virtio_transport_ops *transport_ops;
	void *transport;
};

/*
 * For a device's constructor: fills the common part, allocates @queue_count queues of @queue_size
 * and the loop. Offers VERSION_1, INDIRECT_DESC, EVENT_IDX and RING_PACKED. Undone by
 * virtio_device_cleanup.
 *
 * @state visits the device's own state (base/state.h): what the driver's commands and
 * configuration writes, and the machine's requests, have made of it. It is an argument and not one
 * of the operations so that a device without it does not compile. It runs on the device's loop
 * while the device is quiesced. When it loads, the device is as it was created, except that status,
 * features and queues are loaded; if @device->active is set it has to become what it is after
 * activate and quiesce, for `resume` comes next. A configuration that is not the one the driver has
 * seen counts config_generation up: the driver is told when the device resumes. When a value is
 * refused, `reset` follows.
 */
struct error *virtio_device_init(struct virtio_device *device, const struct virtio_device_ops *ops,
				 void (*state)(struct virtio_device *device, struct state *state),
				 const char *id, uint16_t queue_count,
				 uint16_t queue_size) MUST_CHECK __attribute__((nonnull(3)));
/* Releases what virtio_device_init made; the loop's thread is joined first. */
void virtio_device_cleanup(struct virtio_device *device);
/* Joins the loop's thread and calls ops->destroy; accepts NULL. */
void virtio_device_destroy(struct virtio_device *device);

/* Whether the driver negotiated feature @bit. */
static inline bool virtio_device_has(const struct virtio_device *device, unsigned int bit)
{
	return device->driver_features >> bit & 1;
}
/* What the status register reads as. Any thread. */
uint8_t virtio_device_status(const struct virtio_device *device);
/* DRIVER_OK is set, it needs no reset, and it is not quiesced: queues may be used. */
bool virtio_device_running(const struct virtio_device *device);
/*
 * The guest broke a rule: counts, remembers @reason (copied), sets NEEDS_RESET, tells the driver.
 * Until the reset further calls do nothing: what follows is mostly the same fault seen again. Any
 * thread of the device.
 */
void virtio_device_needs_reset(struct virtio_device *device, const char *reason);
/* The device configuration changed: bumps the generation and tells the driver. Device's loop. */
void virtio_device_config_changed(struct virtio_device *device);

/* For the transport, on the device's loop: a write to the status register; 0 resets. */
void virtio_device_set_status(struct virtio_device *device, uint8_t status);
/* For the transport, on the device's loop: the driver enables a queue whose layout is set. */
void virtio_device_enable_queue(struct virtio_device *device, uint16_t queue);
/* For the transport, on the queue's loop: the doorbell rang. Ignored unless the queue may be used. */
void virtio_device_notify_queue(struct virtio_device *device, uint16_t queue);
/*
 * For the transport, on the device's loop: configuration accesses of any size. Past config_size
 * they read zeros and write nothing.
 */
void virtio_device_read_config(struct virtio_device *device, uint32_t offset, void *data,
			       uint32_t size);
void virtio_device_write_config(struct virtio_device *device, uint32_t offset, const void *data,
				uint32_t size);
/*
 * For the transport: whether the device may master the bus. When it may not it is quiesced, since a
 * kernel that is about to start another one (kexec) turns bus mastering off to stop all DMA. A
 * device that was in use then stays quiesced, its DRIVER_OK cleared, until a reset or a driver that
 * sets it again. Any thread but a queue's.
 */
void virtio_device_set_bus_master(struct virtio_device *device, bool enable);
/* For the machine: from its thread; idempotent; done on the device's loop when they return. */
void virtio_device_quiesce(struct virtio_device *device);
void virtio_device_resume(struct virtio_device *device);
/* From any other thread; a device that is foreign is quiesced, for one more reason, or no longer for it. */
void virtio_device_hold(struct virtio_device *device, bool hold);
/* The operations of these names, on the device's loop; from any other thread, while quiesced. */
struct error *virtio_device_sync(struct virtio_device *device) MUST_CHECK;
void virtio_device_release(struct virtio_device *device);
/* Likewise, but while it works. */
struct error *virtio_device_share(struct virtio_device *device, json_t *handed) MUST_CHECK;
struct error *virtio_device_take_over(struct virtio_device *device) MUST_CHECK;
/* The operation of this name; from any other thread, while quiesced. */
void virtio_device_new_generation(struct virtio_device *device);
/* The operation of this name; from any other thread. */
void virtio_device_memory_comes(struct virtio_device *device, struct userfault *userfault);
/*
 * The state of the device, its queues, and its transport as the part "ID/TYPE" of a machine. The
 * visit may run on any thread but the device's. The device is quiesced; a load is into one that no
 * driver has touched. Nothing in guest memory is looked at, so it does not matter whether that is
 * loaded before or after. When a loaded device is resumed, every queue is looked at and the driver
 * is interrupted once for each, in case that an interrupt from before the save was lost.
 *
 * In the part of a virtio-mem device are its plugged blocks, which a load plugs: such parts are to
 * be loaded before the content of memory.
 */
void virtio_device_state_part(struct virtio_device *device, struct state_part *part);
/* {id, type, status, features, queues: [{size, chains, in-flight}], violations, last-violation, …}. */
json_t *virtio_device_describe(struct virtio_device *device);

#endif
