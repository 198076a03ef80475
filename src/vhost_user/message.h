/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The messages of the vhost-user protocol (QEMU's docs/interop/vhost-user): one table of them, and
 * the bytes of each payload. Both ends of the library send and take apart messages through this
 * table alone, so that what it says of a message holds at both.
 *
 * Nothing here reads or writes a socket (socket.h). Integers are in the machine's own order, as the
 * protocol has them.
 */
#ifndef GODWIT_VHOST_USER_MESSAGE_H
#define GODWIT_VHOST_USER_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define VHOST_USER_HEADER_SIZE 12U
#define VHOST_USER_REGIONS_MAX 8U   /* of one SET_MEM_TABLE */
#define VHOST_USER_FDS_MAX     8U   /* of one message */
#define VHOST_USER_CONFIG_MAX  256U /* bytes of configuration space in one message */
#define VHOST_USER_PAYLOAD_MAX (12U + VHOST_USER_CONFIG_MAX)
#define VHOST_USER_RINGS_MAX   256U	   /* an index has 8 bits in SET_VRING_KICK */
#define VHOST_USER_NO_FD       (1ULL << 8) /* in an u64: no descriptor comes with it */

/* Bits of the header's flags. */
#define VHOST_USER_VERSION	1U
#define VHOST_USER_VERSION_MASK 3U
#define VHOST_USER_REPLY	4U
#define VHOST_USER_NEED_REPLY	8U

/* Bits of the virtio features that belong to the protocol. */
#define VHOST_F_LOG_ALL		       (1ULL << 26)
#define VHOST_USER_F_PROTOCOL_FEATURES (1ULL << 30)

/* Protocol features, as masks. Those that the library does not know are never negotiated. */
#define VHOST_USER_PROTOCOL_MQ			 (1ULL << 0)
#define VHOST_USER_PROTOCOL_LOG_SHMFD		 (1ULL << 1)
#define VHOST_USER_PROTOCOL_RARP		 (1ULL << 2)
#define VHOST_USER_PROTOCOL_REPLY_ACK		 (1ULL << 3)
#define VHOST_USER_PROTOCOL_MTU			 (1ULL << 4)
#define VHOST_USER_PROTOCOL_BACKEND_REQ		 (1ULL << 5)
#define VHOST_USER_PROTOCOL_PAGEFAULT		 (1ULL << 8)
#define VHOST_USER_PROTOCOL_CONFIG		 (1ULL << 9)
#define VHOST_USER_PROTOCOL_INFLIGHT_SHMFD	 (1ULL << 12)
#define VHOST_USER_PROTOCOL_RESET_DEVICE	 (1ULL << 13)
#define VHOST_USER_PROTOCOL_INBAND_NOTIFICATIONS (1ULL << 14)
#define VHOST_USER_PROTOCOL_CONFIGURE_MEM_SLOTS	 (1ULL << 15)
#define VHOST_USER_PROTOCOL_STATUS		 (1ULL << 16)
#define VHOST_USER_PROTOCOL_DEVICE_STATE	 (1ULL << 19)
#define VHOST_USER_PROTOCOL_KNOWN                                                                  \
	(VHOST_USER_PROTOCOL_MQ | VHOST_USER_PROTOCOL_LOG_SHMFD | VHOST_USER_PROTOCOL_RARP |       \
	 VHOST_USER_PROTOCOL_REPLY_ACK | VHOST_USER_PROTOCOL_MTU |                                 \
	 VHOST_USER_PROTOCOL_BACKEND_REQ | VHOST_USER_PROTOCOL_PAGEFAULT |                         \
	 VHOST_USER_PROTOCOL_CONFIG | VHOST_USER_PROTOCOL_INFLIGHT_SHMFD |                         \
	 VHOST_USER_PROTOCOL_RESET_DEVICE | VHOST_USER_PROTOCOL_INBAND_NOTIFICATIONS |             \
	 VHOST_USER_PROTOCOL_CONFIGURE_MEM_SLOTS | VHOST_USER_PROTOCOL_STATUS |                    \
	 VHOST_USER_PROTOCOL_DEVICE_STATE)

/* What the front-end asks of the back-end. */
enum vhost_user_request {
	VHOST_USER_GET_FEATURES = 1,
	VHOST_USER_SET_FEATURES = 2,
	VHOST_USER_SET_OWNER = 3,
	VHOST_USER_RESET_OWNER = 4,
	VHOST_USER_SET_MEM_TABLE = 5,
	VHOST_USER_SET_LOG_BASE = 6,
	VHOST_USER_SET_LOG_FD = 7,
	VHOST_USER_SET_VRING_NUM = 8,
	VHOST_USER_SET_VRING_ADDR = 9,
	VHOST_USER_SET_VRING_BASE = 10,
	VHOST_USER_GET_VRING_BASE = 11,
	VHOST_USER_SET_VRING_KICK = 12,
	VHOST_USER_SET_VRING_CALL = 13,
	VHOST_USER_SET_VRING_ERR = 14,
	VHOST_USER_GET_PROTOCOL_FEATURES = 15,
	VHOST_USER_SET_PROTOCOL_FEATURES = 16,
	VHOST_USER_GET_QUEUE_NUM = 17,
	VHOST_USER_SET_VRING_ENABLE = 18,
	VHOST_USER_SEND_RARP = 19,
	VHOST_USER_NET_SET_MTU = 20,
	VHOST_USER_SET_BACKEND_REQ_FD = 21,
	VHOST_USER_GET_CONFIG = 24,
	VHOST_USER_SET_CONFIG = 25,
	VHOST_USER_POSTCOPY_ADVISE = 28,
	VHOST_USER_POSTCOPY_LISTEN = 29,
	VHOST_USER_POSTCOPY_END = 30,
	VHOST_USER_GET_INFLIGHT_FD = 31,
	VHOST_USER_SET_INFLIGHT_FD = 32,
	VHOST_USER_RESET_DEVICE = 34,
	VHOST_USER_VRING_KICK = 35,
	VHOST_USER_GET_MAX_MEM_SLOTS = 36,
	VHOST_USER_ADD_MEM_REG = 37,
	VHOST_USER_REM_MEM_REG = 38,
	VHOST_USER_SET_STATUS = 39,
	VHOST_USER_GET_STATUS = 40,
	VHOST_USER_SET_DEVICE_STATE_FD = 42,
	VHOST_USER_CHECK_DEVICE_STATE = 43,
};

/* What the back-end asks of the front-end, on a socket of its own. */
enum vhost_user_backend_request {
	VHOST_USER_BACKEND_CONFIG_CHANGE = 2,
	VHOST_USER_BACKEND_VRING_CALL = 4,
	VHOST_USER_BACKEND_VRING_ERR = 5,
};

enum vhost_user_channel {
	VHOST_USER_MAIN,    /* requests of the front-end */
	VHOST_USER_BACKEND, /* requests of the back-end */
};

/* The forms of a payload. */
enum vhost_user_payload {
	VHOST_USER_EMPTY,
	VHOST_USER_U64,
	VHOST_USER_RING_STATE,
	VHOST_USER_RING_ADDRESS,
	VHOST_USER_REGIONS,
	VHOST_USER_REGION,
	VHOST_USER_LOG,
	VHOST_USER_CONFIG,
	VHOST_USER_INFLIGHT,
	VHOST_USER_TRANSFER,
	VHOST_USER_NO_REPLY, /* only for a reply: none but the acknowledgement, if asked for */
};

/* How many descriptors come with a message. */
enum vhost_user_fds {
	VHOST_USER_FDS_NONE,
	VHOST_USER_FDS_ONE,
	VHOST_USER_FDS_MAYBE,	   /* one, or none */
	VHOST_USER_FDS_BY_FLAG,	   /* one, or none with VHOST_USER_NO_FD in the payload */
	VHOST_USER_FDS_PER_REGION, /* one for each region */
};

struct vhost_user_message_type {
	const char *name; /* as the specification has it */
	uint32_t request;
	enum vhost_user_channel channel;
	enum vhost_user_payload payload, reply;
	enum vhost_user_fds fds, reply_fds;
	uint64_t protocol;	 /* protocol features that must all have been negotiated */
	bool protocol_features;	 /* VHOST_USER_F_PROTOCOL_FEATURES must have been offered */
	bool reply_may_be_empty; /* although the reply has a form */
	bool reply_may_repeat;	 /* and may also have the request's form */
};

/* The type of @request, or NULL: not known. */
const struct vhost_user_message_type *vhost_user_message_type(enum vhost_user_channel channel,
							      uint32_t request);
/* The table, for tests; *@count is how many there are. */
const struct vhost_user_message_type *vhost_user_message_types(size_t *count);

/*
 * Refuses @type unless @protocol (negotiated protocol features) and @features (of virtio, offered
 * by the back-end) allow it. Both ends ask before they send and after they received.
 */
struct error *vhost_user_message_allowed(const struct vhost_user_message_type *type,
					 uint64_t features, uint64_t protocol) MUST_CHECK;

/* A piece of guest memory; bytes. @user_address is a number of the front-end's, which ring addresses use. */
struct vhost_user_region {
	uint64_t guest_address, size, user_address;
	uint64_t offset; /* where it begins in its file */
};

struct vhost_user_ring_state {
	uint32_t index, num;
};

#define VHOST_USER_RING_LOG 1U /* flag: writes to the used ring are logged */

struct vhost_user_ring_address {
	uint32_t index, flags;
	uint64_t descriptor, used, available; /* user addresses */
	uint64_t log;			      /* guest address of the used ring, for the log */
};

struct vhost_user_inflight {
	uint64_t size, offset;
	uint16_t queues, queue_size;
};

struct vhost_user_config {
	uint32_t offset, size, flags;
	uint8_t bytes[VHOST_USER_CONFIG_MAX];
};

struct vhost_user_message {
	const struct vhost_user_message_type *type;
	uint32_t flags;
	enum vhost_user_payload payload;
	union {
		uint64_t u64;
		struct vhost_user_ring_state state;
		struct vhost_user_ring_address address;
		struct vhost_user_region region;
		struct {
			uint32_t count;
			struct vhost_user_region list[VHOST_USER_REGIONS_MAX];
		} regions;
		struct {
			uint64_t size, offset;
		} log;
		struct vhost_user_config config;
		struct vhost_user_inflight inflight;
		struct {
			uint32_t direction, phase;
		} transfer;
	};
	int fds[VHOST_USER_FDS_MAX]; /* owned by who received it, borrowed by who sends */
	unsigned int fd_count;
	const uint8_t
	    *raw; /* received and not yet taken apart: in the socket, until the next message */
	uint32_t raw_size;
};

/* Closes the descriptors that have not been taken. */
void vhost_user_message_close(struct vhost_user_message *message);
#define AUTO_VHOST_USER_MESSAGE AUTO(vhost_user_message_close)
/* Descriptor @index, which the caller owns from then on; -1: there is none. */
int vhost_user_message_take_fd(struct vhost_user_message *message, unsigned int index);

/* Writes header and payload into @bytes; returns how many there are. */
size_t vhost_user_message_encode(const struct vhost_user_message *message,
				 uint8_t bytes[VHOST_USER_HEADER_SIZE + VHOST_USER_PAYLOAD_MAX]);
/*
 * Takes the raw payload apart, which must have the form @payload exactly, and checks the number of
 * descriptors against @fds. The error names the message, the field and its value.
 */
struct error *vhost_user_message_decode(struct vhost_user_message *message,
					enum vhost_user_payload payload,
					enum vhost_user_fds fds) MUST_CHECK;

#endif
