/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Both ends of the vhost-user protocol: the VMM whose guest has a device, and the process that works
 * for the device. This header is all that is needed; docs/libraries.md of godwit has an example, and
 * docs/vhost-user.md what is known of other back-ends. Link with what
 * `pkg-config --libs godwit-vhost-user` says.
 *
 * Messages. Nothing is sent that was not negotiated (-EOPNOTSUPP). Every reply, request, length, index
 * and number of descriptors is checked; what does not fit ends the session, with a message that names
 * it. A descriptor that came with something that was refused is closed.
 *
 * Time. Everything that waits has a limit. Who does not answer is given up.
 *
 * Errors. Functions that can fail return 0 or a negative errno: -ECONNRESET: the session has ended;
 * -ETIMEDOUT; -EPROTO: the peer broke the protocol; -EREMOTEIO: it refused, and the session goes on;
 * -ENOSPC: it takes too few pieces of memory; -EINVAL: the caller's mistake. Where there is an argument
 * @message that is not NULL, *@message is then a line for people; free it with free().
 * Without an error it is NULL. (It may be NULL with an error too, when memory is short.)
 *
 * Threads. A session belongs to one thread at a time; several sessions are independent. Nothing here
 * starts threads, takes signals or keeps global state. The process must be able to make
 * descriptors; SIGPIPE is never raised.
 *
 * Descriptors that are passed in stay the caller's, but for the connection itself; those that are handed
 * out become the caller's. A peer may make an eventfd that it was given non-blocking.
 *
 * Stability. Functions are added, and do not change as long as GODWIT_VHOST_USER_VERSION's hundreds,
 * which are the number in the library's name, stay.
 */
#ifndef GODWIT_VHOST_USER_H
#define GODWIT_VHOST_USER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GODWIT_VHOST_USER_VERSION 100

/* Protocol features that the library speaks; bits as in the specification. */
#define GODWIT_VHOST_USER_MQ		      (1ULL << 0)
#define GODWIT_VHOST_USER_LOG_SHMFD	      (1ULL << 1)
#define GODWIT_VHOST_USER_REPLY_ACK	      (1ULL << 3)
#define GODWIT_VHOST_USER_BACKEND_REQ	      (1ULL << 5)
#define GODWIT_VHOST_USER_PAGEFAULT	      (1ULL << 8)
#define GODWIT_VHOST_USER_CONFIG	      (1ULL << 9)
#define GODWIT_VHOST_USER_INFLIGHT_SHMFD      (1ULL << 12)
#define GODWIT_VHOST_USER_RESET_DEVICE	      (1ULL << 13)
#define GODWIT_VHOST_USER_CONFIGURE_MEM_SLOTS (1ULL << 15)
#define GODWIT_VHOST_USER_STATUS	      (1ULL << 16)
#define GODWIT_VHOST_USER_DEVICE_STATE	      (1ULL << 19)

/* --- Connections ------------------------------------------------------------------------------- */

/* Connects to the socket at @path within @limit_ns nanoseconds. */
int godwit_vhost_user_connect(const char *path, int64_t limit_ns, int *fd, char **message);
/* Listens at @path (mode 0600), in place of a socket there that nobody listens on. */
int godwit_vhost_user_listen(const char *path, int *fd, char **message);
/* The next connection. */
int godwit_vhost_user_accept(int listener, int64_t limit_ns, int *fd, char **message);

/* --- Memory of the guest ----------------------------------------------------------------------- */

/*
 * What a guest has, and what of it a back-end holds. Blocks are pieces of guest memory in files, of
 * which any units may be plugged. The back-end is given what is plugged, exactly while it takes so
 * many pieces, and coarser then. A change of one unit is one message at most; what stays is not
 * taken away or sent again, and what a running ring uses stays until the ring is stopped.
 */
struct godwit_vhost_user_memory;

struct godwit_vhost_user_block {
	uint64_t guest_address, size; /* bytes, whole pages */
	uint64_t
	    user_address; /* a number of the caller's choice, its mapping as a rule; no two overlap */
	uint64_t offset; /* in the file */
	uint64_t unit;	 /* bytes, a power of two; 0: all of it, always */
	int fd;		 /* borrowed, open as long as the memory */
};

struct godwit_vhost_user_range {
	uint64_t guest_address, size;
};

/* NULL: memory is short. */
struct godwit_vhost_user_memory *godwit_vhost_user_memory_create(void);
/* After the sessions that use it. Accepts NULL. */
void godwit_vhost_user_memory_destroy(struct godwit_vhost_user_memory *memory);
/* At most 64, before the first session. */
int godwit_vhost_user_memory_add(struct godwit_vhost_user_memory *memory,
				 const struct godwit_vhost_user_block *block, char **message);
/* How many pieces the back-end holds, and bytes of them that are not plugged. */
uint32_t godwit_vhost_user_memory_held(const struct godwit_vhost_user_memory *memory);
uint64_t godwit_vhost_user_memory_excess(const struct godwit_vhost_user_memory *memory);

/* --- The front-end ----------------------------------------------------------------------------- */

struct godwit_vhost_user_front;

struct godwit_vhost_user_front_options {
	const char *name;  /* for messages */
	uint64_t protocol; /* features that are wanted */
	int64_t limit_ns;  /* for each request */
	/* Called from any function of the session, which it must not use. May be NULL. */
	void (*config_changed)(void *context);
	void *context;
};

/* Begins a session over @fd, which is taken over, also on error. */
int godwit_vhost_user_front_open(int fd, const struct godwit_vhost_user_front_options *options,
				 struct godwit_vhost_user_front **front, char **message);
/* Accepts NULL. */
void godwit_vhost_user_front_close(struct godwit_vhost_user_front *front);
void godwit_vhost_user_front_limit(struct godwit_vhost_user_front *front, int64_t limit_ns);
/* Offered features of virtio; protocol features in use; queues (0: not said); pieces of memory. */
uint64_t godwit_vhost_user_front_features(const struct godwit_vhost_user_front *front);
uint64_t godwit_vhost_user_front_protocol(const struct godwit_vhost_user_front *front);
uint32_t godwit_vhost_user_front_queues(const struct godwit_vhost_user_front *front);
uint32_t godwit_vhost_user_front_slots(const struct godwit_vhost_user_front *front);
/* To watch: the first is readable when the back-end hangs up, the second (-1: none) when to serve. */
int godwit_vhost_user_front_fd(const struct godwit_vhost_user_front *front);
int godwit_vhost_user_front_backend_fd(const struct godwit_vhost_user_front *front);
int godwit_vhost_user_front_serve(struct godwit_vhost_user_front *front, char **message);

int godwit_vhost_user_front_set_features(struct godwit_vhost_user_front *front, uint64_t features,
					 char **message);
int godwit_vhost_user_front_set_status(struct godwit_vhost_user_front *front, uint8_t status,
				       char **message);
int godwit_vhost_user_front_reset(struct godwit_vhost_user_front *front, char **message);
/* @size: 1 to 256. */
int godwit_vhost_user_front_get_config(struct godwit_vhost_user_front *front, uint32_t offset,
				       uint32_t size, void *bytes, char **message);
int godwit_vhost_user_front_set_config(struct godwit_vhost_user_front *front, uint32_t offset,
				       uint32_t size, const void *bytes, bool migration,
				       char **message);

/* Gives the back-end what is plugged of @memory, which one session at a time uses. */
int godwit_vhost_user_front_begin_memory(struct godwit_vhost_user_front *front,
					 struct godwit_vhost_user_memory *memory, char **message);
/*
 * Unplugs and plugs ranges of whole units; returns when the back-end has done it. -EREMOTEIO: it has refused
 * what was plugged, which the caller unplugs again.
 */
int godwit_vhost_user_front_change_memory(struct godwit_vhost_user_front *front,
					  const struct godwit_vhost_user_range *gone,
					  size_t gone_count,
					  const struct godwit_vhost_user_range *come,
					  size_t come_count, char **message);
/* Takes away what is held and not plugged, as far as no ring needs it. */
int godwit_vhost_user_front_tidy_memory(struct godwit_vhost_user_front *front, char **message);

struct godwit_vhost_user_ring {
	uint16_t size;			      /* entries */
	uint32_t base;			      /* where it goes on */
	uint64_t descriptor, available, used; /* guest addresses */
	int kick, call, error;		      /* eventfds; -1: none */
};

int godwit_vhost_user_front_start_ring(struct godwit_vhost_user_front *front, uint32_t index,
				       const struct godwit_vhost_user_ring *ring, char **message);
int godwit_vhost_user_front_enable_ring(struct godwit_vhost_user_front *front, uint32_t index,
					bool enable, char **message);
int godwit_vhost_user_front_set_call(struct godwit_vhost_user_front *front, uint32_t index,
				     int call, char **message);
/* Waits for requests under way. *@base, unless NULL, is where the ring goes on. */
int godwit_vhost_user_front_stop_ring(struct godwit_vhost_user_front *front, uint32_t index,
				      uint32_t *base, char **message);

/* A bitmap of 4 KiB pages that the back-end marks. */
int godwit_vhost_user_front_start_log(struct godwit_vhost_user_front *front, int fd,
				      uint64_t offset, uint64_t size, char **message);
int godwit_vhost_user_front_stop_log(struct godwit_vhost_user_front *front, char **message);

/* The buffer of what is in flight, to be given to the back-end's successor. */
struct godwit_vhost_user_inflight {
	uint64_t size, offset;
	uint16_t queues, queue_size;
};
int godwit_vhost_user_front_get_inflight(struct godwit_vhost_user_front *front, uint16_t queues,
					 uint16_t queue_size,
					 struct godwit_vhost_user_inflight *inflight, int *fd,
					 char **message);
int godwit_vhost_user_front_set_inflight(struct godwit_vhost_user_front *front,
					 const struct godwit_vhost_user_inflight *inflight, int fd,
					 char **message);

/*
 * @load: into the back-end; otherwise out of it. @fd: its end of a pipe, which the caller closes then. *@other:
 * -1, or the end that is used instead of the caller's own.
 */
int godwit_vhost_user_front_begin_state(struct godwit_vhost_user_front *front, bool load, int fd,
					int *other, char **message);
int godwit_vhost_user_front_check_state(struct godwit_vhost_user_front *front, char **message);

/*
 * Post-copy: advise, listen, begin_memory, … end. @slots: by ADD_MEM_REG, which not all back-ends with
 * PAGEFAULT can; otherwise by one table of at most 8 pieces. @ready is called when the addresses are
 * known, before the back-end may touch them; not 0: it may not, and the session ends.
 */
int godwit_vhost_user_front_advise_postcopy(struct godwit_vhost_user_front *front, int *userfault,
					    char **message);
int godwit_vhost_user_front_listen_postcopy(struct godwit_vhost_user_front *front, bool slots,
					    int (*ready)(void *context), char **message);
int godwit_vhost_user_front_end_postcopy(struct godwit_vhost_user_front *front, char **message);
struct godwit_vhost_user_client_range {
	uint64_t guest_address, size, address;
};
/* The @index-th; false: there are no more. */
bool godwit_vhost_user_front_client_range(const struct godwit_vhost_user_front *front, size_t index,
					  struct godwit_vhost_user_client_range *range);

/* --- The back-end ------------------------------------------------------------------------------ */

struct godwit_vhost_user_back;

/*
 * The device, called from godwit_vhost_user_back_process. Functions return 0, or a negative errno to
 * refuse. start_ring and stop_ring must be there; a protocol feature is offered only if what it needs is.
 */
struct godwit_vhost_user_device {
	int (*set_features)(void *context, uint64_t features);
	int (*get_config)(void *context, uint32_t offset, uint32_t size, uint8_t *bytes);
	int (*set_config)(void *context, uint32_t offset, uint32_t size, const uint8_t *bytes,
			  bool migration);
	int (*start_ring)(void *context, uint32_t ring);
	void (*enable_ring)(void *context, uint32_t ring, bool enabled);
	/* Returns when nothing of it is under way; *@base: where it goes on. */
	int (*stop_ring)(void *context, uint32_t ring, uint32_t *base);
	/* Returns when no pointer into this memory is in use; @size 0: into any, nor a descriptor. */
	void (*memory_goes)(void *context, uint64_t guest_address, uint64_t size);
	/* Takes over @fd and moves all of the state through it. */
	int (*transfer_state)(void *context, bool save, int fd);
	int (*check_state)(void *context);
	void (*reset)(void *context);
};

struct godwit_vhost_user_back_options {
	uint64_t features;   /* of virtio */
	uint64_t protocol;   /* to offer */
	uint32_t queues;     /* 1 to 256 */
	uint32_t queue_size; /* of the largest ring, a power of two, at most 32768 */
	uint32_t slots;	     /* pieces of memory, at most 32764; 0: 509 */
	int64_t limit_ns;    /* for an answer to be taken */
	const struct godwit_vhost_user_device *device; /* borrowed */
	void *context;				       /* for it */
};

struct godwit_vhost_user_back_ring {
	bool started, enabled;
	uint32_t size, base;
	void *descriptor, *available, *used; /* in this process, while it is started */
	int kick, call, error;		     /* eventfds; -1: none */
};

/* Begins a session over @fd, which is taken over, also on error. */
int godwit_vhost_user_back_open(int fd, const struct godwit_vhost_user_back_options *options,
				struct godwit_vhost_user_back **back, char **message);
/* Stops the rings. Accepts NULL. */
void godwit_vhost_user_back_close(struct godwit_vhost_user_back *back);
/* To watch for input; then handle it, without waiting. An error: the session is to be closed. */
int godwit_vhost_user_back_fd(const struct godwit_vhost_user_back *back);
int godwit_vhost_user_back_process(struct godwit_vhost_user_back *back, char **message);
uint64_t godwit_vhost_user_back_features(const struct godwit_vhost_user_back *back);
uint64_t godwit_vhost_user_back_protocol(const struct godwit_vhost_user_back *back);
/* Ring @index as it is now; false: there is none. */
bool godwit_vhost_user_back_ring(const struct godwit_vhost_user_back *back, uint32_t index,
				 struct godwit_vhost_user_back_ring *ring);
/* Guest memory; *@size is lowered to what is in one piece. NULL: there is none. */
void *godwit_vhost_user_back_guest(const struct godwit_vhost_user_back *back,
				   uint64_t guest_address, uint64_t *size);
/* After guest memory, or bytes of a used ring from @offset on, was written. Any thread. */
void godwit_vhost_user_back_wrote(struct godwit_vhost_user_back *back, uint64_t guest_address,
				  uint64_t size);
void godwit_vhost_user_back_wrote_used(struct godwit_vhost_user_back *back, uint32_t ring,
				       uint64_t offset, uint64_t size);
/* Interrupts the driver. */
void godwit_vhost_user_back_call(struct godwit_vhost_user_back *back, uint32_t ring);
int godwit_vhost_user_back_config_changed(struct godwit_vhost_user_back *back, char **message);
/* The part of the in-flight buffer that is ring @index's, of *@size bytes; NULL: there is none. */
void *godwit_vhost_user_back_inflight(const struct godwit_vhost_user_back *back, uint32_t index,
				      size_t *size);

#ifdef __cplusplus
}
#endif

#endif
