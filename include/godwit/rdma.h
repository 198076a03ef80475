/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A RoCE v2 engine: RDMA verbs in software, over any way to move UDP datagrams. This header is all that
 * is needed; docs/libraries.md of godwit has an example, docs/rdma.md says what is there, what is not,
 * and what a peer can do. Link with what `pkg-config --libs godwit-rdma` says.
 *
 * An engine is a state machine: packets, work and the time go in, packets and completions come out. It
 * has no threads, no clock, no sockets and no global state. Its user calls
 *
 *	godwit_rdma_receive	for each packet that came
 *	godwit_rdma_poll	after packets and posted work, and at the time that it returned
 *
 * A port carries the packets: one of those below (udp, loop), or the user's own.
 *
 * Memory is never the engine's: behind each key is a callback that gives spans of memory, or refuses. What
 * is asked for lies in the region that was registered, and a span is used before the call into the
 * library returns, so that nothing stays pinned. Memory that is not there now (-EAGAIN) is waited for: the
 * peer is told to come again, and nothing blocks.
 *
 * Threads. An engine and everything made from it belong to one thread at a time; engines are
 * independent. Callbacks run inside the calls above and must not call the library.
 *
 * Errors. Functions that can fail return 0 or a negative errno: -ENOMEM; -EINVAL: what was asked for makes
 * no sense, or not in this state; -EEXIST: the number or key is taken; -EBUSY: something was made from
 * it that is still there; -ENOSPC: the queue is full.
 *
 * Addresses are IPv6 addresses in the order of the wire; ::ffff:a.b.c.d is the IPv4 address a.b.c.d.
 * Times are in nanoseconds of any clock that does not go back.
 *
 * Stability. Functions are added, and do not change as long as GODWIT_RDMA_VERSION's hundreds, which
 * are the number in the library's name, stay.
 */
#ifndef GODWIT_RDMA_H
#define GODWIT_RDMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GODWIT_RDMA_VERSION 100 /* 1.0 */

#define GODWIT_RDMA_UDP_PORT	 4791
#define GODWIT_RDMA_PACKET_MAX	 4136 /* a packet after the UDP header, without its CRC */
#define GODWIT_RDMA_MESSAGE_MAX	 (UINT32_C(1) << 30)
#define GODWIT_RDMA_QUEUE_MAX	 65536U /* entries of any queue */
#define GODWIT_RDMA_SEGMENTS_MAX 32U
#define GODWIT_RDMA_READS_MAX                                                                      \
	128U /* reads and atomics at once, of a queue pair, in each direction */
#define GODWIT_RDMA_WINDOW_MAX 512U /* packets of a queue pair under way */
#define GODWIT_RDMA_NEVER      INT64_MAX

struct godwit_rdma;		/* an engine */
struct godwit_rdma_domain;	/* protection domain */
struct godwit_rdma_region;	/* memory region */
struct godwit_rdma_window;	/* memory window */
struct godwit_rdma_completions; /* completion queue */
struct godwit_rdma_shared;	/* shared receive queue */
struct godwit_rdma_pair;	/* queue pair */
struct godwit_rdma_work;

/* Whence and whither a packet goes; the destination's port is always 4791. */
struct godwit_rdma_ends {
	uint8_t source[16], destination[16];
	uint16_t source_port;
	uint8_t next_hop[6]; /* its Ethernet address, for ports that make frames */
};

/* --- The engine -------------------------------------------------------------------------------- */

struct godwit_rdma_port {
	/*
	 * Room for a packet of @size bytes (at most GODWIT_RDMA_PACKET_MAX), or NULL: none now. A packet
	 * that was not committed is forgotten.
	 */
	uint8_t *(*reserve)(void *context, const struct godwit_rdma_ends *ends, uint32_t size);
	/* The packet is complete; the port adds its CRC and sends it, at the latest at flush. */
	void (*commit)(void *context);
	/* May be NULL. */
	void (*flush)(void *context);
	void *context;
};

enum godwit_rdma_event_type {
	GODWIT_RDMA_EVENT_ESTABLISHED = 1,    /* @pair: the first packet, ready to receive */
	GODWIT_RDMA_EVENT_DRAINED,	      /* @pair: what had begun is complete (SQD) */
	GODWIT_RDMA_EVENT_LAST_RECEIVE,	      /* @pair, with a shared queue: takes no more of it */
	GODWIT_RDMA_EVENT_BAD_REQUEST,	      /* @pair: the peer broke the protocol */
	GODWIT_RDMA_EVENT_BAD_ACCESS,	      /* @pair: the peer asked for what it may not */
	GODWIT_RDMA_EVENT_FATAL,	      /* @pair: completions are lost */
	GODWIT_RDMA_EVENT_SHARED_LIMIT,	      /* @shared: fewer entries than its limit */
	GODWIT_RDMA_EVENT_COMPLETIONS_OVERRUN /* @completions: more than it has room for */
};

struct godwit_rdma_event {
	enum godwit_rdma_event_type type;
	struct godwit_rdma_pair *pair;
	struct godwit_rdma_shared *shared;
	struct godwit_rdma_completions *completions;
};

struct godwit_rdma_options {
	struct godwit_rdma_port port;
	/*
	 * Packets of a queue pair under way, 2 to GODWIT_RDMA_WINDOW_MAX; 0: 64, as Linux's rxe can take.
	 * Between engines more is faster.
	 */
	uint32_t window;
	/* May be NULL. */
	void (*event)(void *context, const struct godwit_rdma_event *event);
	/*
	 * Whether @address is one of this machine, for datagrams to a queue pair without an own one. May
	 * be NULL: none is.
	 */
	bool (*is_own)(void *context, const uint8_t address[16]);
	void *context;
};

struct godwit_rdma_counters {
	uint64_t received, sent; /* packets */
	uint64_t malformed;	 /* no packet of this protocol */
	uint64_t stray; /* for a queue pair that there is not, is not ready, or has another peer */
	uint64_t duplicates; /* requests that had been executed */
	uint64_t out_of_sequence;
	uint64_t retransmissions; /* times that a requester went back */
	uint64_t timeouts;
	uint64_t not_ready;   /* refusals sent: no receive, or memory that is not there now */
	uint64_t refused;     /* requests refused for good */
	uint64_t bad_answers; /* answers that fit no request */
	uint64_t dropped;     /* datagrams and unreliable messages without a place, key or right */
};

int godwit_rdma_create(const struct godwit_rdma_options *options, struct godwit_rdma **engine);
/* Everything made from it is gone (-EBUSY otherwise). Accepts NULL. */
int godwit_rdma_destroy(struct godwit_rdma *engine);
/*
 * A packet came: what follows the UDP header, without the CRC, which the port has checked. Everything
 * in it may be a stranger's.
 */
void godwit_rdma_receive(struct godwit_rdma *engine, const struct godwit_rdma_ends *ends,
			 const uint8_t *packet, size_t size, int64_t now);
/*
 * Sends what there is to send. Returns when to call again at the latest; not after @now: at once, or,
 * when the port had no room, as soon as it has.
 */
int64_t godwit_rdma_poll(struct godwit_rdma *engine, int64_t now);
void godwit_rdma_get_counters(const struct godwit_rdma *engine,
			      struct godwit_rdma_counters *counters);

/* --- Memory ------------------------------------------------------------------------------------ */

/* Rights, of regions, windows and (the remote ones) queue pairs. */
#define GODWIT_RDMA_LOCAL_WRITE	  (1U << 0)
#define GODWIT_RDMA_REMOTE_WRITE  (1U << 1)
#define GODWIT_RDMA_REMOTE_READ	  (1U << 2)
#define GODWIT_RDMA_REMOTE_ATOMIC (1U << 3)
#define GODWIT_RDMA_BIND_WINDOW	  (1U << 4) /* windows may be bound to the region */

struct godwit_rdma_memory {
	/*
	 * The memory at @offset of the region: *@bytes, and at *@there (in: the bytes that are wanted,
	 * never past the region; out: 1 to that) how many bytes of it are in one piece. -EAGAIN: it will
	 * be there later; any other error: never, which the peer or the user is told.
	 */
	int (*span)(void *context, uint64_t offset, bool write, uint8_t **bytes, uint64_t *there);
	/* @size bytes at @offset were written, in one span. May be NULL. */
	void (*wrote)(void *context, uint64_t offset, uint64_t size);
	void *context;
	/*
	 * The region gets bytes by GODWIT_RDMA_REGISTER, of which @work says what the user wants. 0, or an
	 * error, which refuses it. Needed for such regions.
	 */
	int (*registered)(void *context, const struct godwit_rdma_work *work);
};

struct godwit_rdma_region_options {
	struct godwit_rdma_memory memory;
	/*
	 * The region has no bytes: @address, @size and @access are 0. GODWIT_RDMA_REGISTER gives it some, and
	 * invalidation by either end takes them.
	 */
	bool by_work;
	uint64_t address; /* what peers and work requests call its first byte */
	uint64_t size;	  /* @address + @size does not wrap, but may end at 2^64 */
	uint32_t access;
	uint32_t key; /* 0: any */
};

int godwit_rdma_domain_create(struct godwit_rdma *engine, struct godwit_rdma_domain **domain);
int godwit_rdma_domain_destroy(struct godwit_rdma_domain *domain);
int godwit_rdma_region_create(struct godwit_rdma_domain *domain,
			      const struct godwit_rdma_region_options *options,
			      struct godwit_rdma_region **region);
/* -EBUSY: a window is bound to it. */
int godwit_rdma_region_destroy(struct godwit_rdma_region *region);
/* Local and remote key are the same. */
uint32_t godwit_rdma_region_key(const struct godwit_rdma_region *region);

/*
 * Windows are bound to a part of a region by GODWIT_RDMA_BIND. Type 1 serves every queue pair of the domain
 * until it is bound anew; type 2 the one that bound it, until it is invalidated by either end.
 */
int godwit_rdma_window_create(struct godwit_rdma_domain *domain, unsigned int type, uint32_t key,
			      struct godwit_rdma_window **window);
int godwit_rdma_window_destroy(struct godwit_rdma_window *window);
uint32_t godwit_rdma_window_key(const struct godwit_rdma_window *window);

/* --- Completions ------------------------------------------------------------------------------- */

enum godwit_rdma_operation {
	GODWIT_RDMA_SEND = 1,
	GODWIT_RDMA_WRITE,
	GODWIT_RDMA_READ,
	GODWIT_RDMA_COMPARE_SWAP,
	GODWIT_RDMA_FETCH_ADD,
	GODWIT_RDMA_BIND,
	GODWIT_RDMA_INVALIDATE, /* a key of this end */
	GODWIT_RDMA_REGISTER = 10,
	/* Of completions only. */
	GODWIT_RDMA_RECEIVE = 8,
	GODWIT_RDMA_RECEIVE_WRITE = 9 /* a write with immediate data */
};

enum godwit_rdma_status {
	GODWIT_RDMA_SUCCESS = 0,
	GODWIT_RDMA_LOCAL_LENGTH, /* a message was longer than the receive; or than is possible */
	GODWIT_RDMA_LOCAL_OPERATION,  /* the work makes no sense for this queue pair */
	GODWIT_RDMA_LOCAL_PROTECTION, /* a segment's key, place or memory */
	GODWIT_RDMA_FLUSHED,	      /* the queue pair failed before */
	GODWIT_RDMA_BIND_REFUSED,
	GODWIT_RDMA_BAD_RESPONSE,      /* the peer answered nonsense */
	GODWIT_RDMA_REMOTE_INVALID,    /* the peer found the request invalid */
	GODWIT_RDMA_REMOTE_ACCESS,     /* the peer does not allow it */
	GODWIT_RDMA_REMOTE_OPERATION,  /* the peer could not do it */
	GODWIT_RDMA_RETRIES_EXCEEDED,  /* the peer does not answer */
	GODWIT_RDMA_NOT_READY_EXCEEDED /* the peer was not ready too often */
};

#define GODWIT_RDMA_WITH_IMMEDIATE  (1U << 0) /* @immediate is there */
#define GODWIT_RDMA_WITH_INVALIDATE (1U << 1) /* the peer has invalidated @invalidated */
#define GODWIT_RDMA_WITH_HEADER	    (1U << 2) /* 40 bytes of IP header precede the datagram */

struct godwit_rdma_completion {
	uint64_t id; /* of the work or the receive */
	enum godwit_rdma_status status;
	enum godwit_rdma_operation operation;
	uint32_t flags;
	uint32_t bytes;	      /* received or read, the 40 of the header included */
	uint32_t immediate;   /* as the peer's number */
	uint32_t invalidated; /* key */
	uint32_t pair;	      /* number of this end's queue pair */
	uint32_t source;      /* datagrams: number of the sender's queue pair */
};

struct godwit_rdma_completions_options {
	uint32_t capacity;
	/* After godwit_rdma_completions_arm: once, when there is one. May be NULL. */
	void (*notify)(void *context, struct godwit_rdma_completions *completions);
	/*
	 * Instead of a ring in the library, @capacity, @notify, and the two functions below: takes a
	 * completion. @solicited: an error, or a receive whose sender asked for a notification. False:
	 * there is no room, and no more are given. NULL: there is such a ring.
	 */
	bool (*add)(void *context, const struct godwit_rdma_completion *completion, bool solicited);
	void *context;
	uint32_t number; /* in a saved state; 0: any */
};

int godwit_rdma_completions_create(struct godwit_rdma *engine,
				   const struct godwit_rdma_completions_options *options,
				   struct godwit_rdma_completions **completions);
int godwit_rdma_completions_destroy(struct godwit_rdma_completions *completions);
/* Takes up to @count; returns how many. */
uint32_t godwit_rdma_completions_poll(struct godwit_rdma_completions *completions,
				      struct godwit_rdma_completion *list, uint32_t count);
/*
 * The next completion is notified; @solicited: the next error or receive whose sender asked for it.
 * What is there already is not. Returns true if something is.
 */
bool godwit_rdma_completions_arm(struct godwit_rdma_completions *completions, bool solicited);

/* --- Queue pairs ------------------------------------------------------------------------------- */

enum godwit_rdma_service {
	GODWIT_RDMA_RELIABLE = 1, /* RC */
	GODWIT_RDMA_UNRELIABLE,	  /* UC */
	GODWIT_RDMA_DATAGRAM	  /* UD */
};

enum godwit_rdma_state {
	GODWIT_RDMA_RESET,
	GODWIT_RDMA_INIT,
	GODWIT_RDMA_RTR, /* ready to receive */
	GODWIT_RDMA_RTS, /* ready to send too */
	GODWIT_RDMA_SQD, /* begins nothing new */
	GODWIT_RDMA_ERROR
};

struct godwit_rdma_segment {
	uint64_t address;
	uint32_t size;
	uint32_t key;
};

struct godwit_rdma_receive_work {
	uint64_t id;
	const struct godwit_rdma_segment *segments; /* copied */
	uint32_t segment_count;
};

/* Receives that the user keeps, instead of a queue in the library to which they are posted. */
struct godwit_rdma_receives {
	/*
	 * The next one: @work but for its segments, which come to @segments, at most
	 * GODWIT_RDMA_SEGMENTS_MAX. False: there is none. NULL: there is a queue in the library.
	 */
	bool (*take)(void *context, struct godwit_rdma_receive_work *work,
		     struct godwit_rdma_segment *segments);
	void *context;
};

struct godwit_rdma_shared_options {
	uint32_t capacity; /* a power of two */
	uint32_t segments; /* at most, of one receive */
	/* Instead of these two, and of the limit. */
	struct godwit_rdma_receives receives;
	uint32_t number; /* in a saved state; 0: any */
};

int godwit_rdma_shared_create(struct godwit_rdma_domain *domain,
			      const struct godwit_rdma_shared_options *options,
			      struct godwit_rdma_shared **shared);
int godwit_rdma_shared_destroy(struct godwit_rdma_shared *shared);
/* GODWIT_RDMA_EVENT_SHARED_LIMIT once, when fewer than @limit receives are left; 0: not. */
void godwit_rdma_shared_set_limit(struct godwit_rdma_shared *shared, uint32_t limit);

struct godwit_rdma_pair_options {
	enum godwit_rdma_service service;
	struct godwit_rdma_completions *send, *receive; /* may be the same */
	struct godwit_rdma_shared *shared;		/* NULL: an own receive queue */
	uint32_t send_capacity, receive_capacity;	/* powers of two */
	uint32_t send_segments, receive_segments;	/* at most, of one work request */
	/* Instead of receive_capacity and receive_segments. */
	struct godwit_rdma_receives receives;
	bool signal_all; /* every work request has a completion, signaled or not */
	uint32_t number; /* 1 to 2^24 - 2; 0: any from 16 on */
	/*
	 * A work request is complete, or flushed: its place in the send queue is free. Before its
	 * completion, if it has one. May be NULL.
	 */
	void (*sent)(void *context);
	void *context;
};

int godwit_rdma_pair_create(struct godwit_rdma_domain *domain,
			    const struct godwit_rdma_pair_options *options,
			    struct godwit_rdma_pair **pair);
/* Its completions that were not taken stay. */
int godwit_rdma_pair_destroy(struct godwit_rdma_pair *pair);
uint32_t godwit_rdma_pair_number(const struct godwit_rdma_pair *pair);
enum godwit_rdma_state godwit_rdma_pair_state(const struct godwit_rdma_pair *pair);

#define GODWIT_RDMA_SET_STATE		  (1U << 0)
#define GODWIT_RDMA_SET_ACCESS		  (1U << 1)
#define GODWIT_RDMA_SET_ENDS		  (1U << 2)
#define GODWIT_RDMA_SET_MTU		  (1U << 3)
#define GODWIT_RDMA_SET_PEER		  (1U << 4)
#define GODWIT_RDMA_SET_RECEIVE_PSN	  (1U << 5)
#define GODWIT_RDMA_SET_SEND_PSN	  (1U << 6)
#define GODWIT_RDMA_SET_TIMEOUT		  (1U << 7)
#define GODWIT_RDMA_SET_RETRIES		  (1U << 8)
#define GODWIT_RDMA_SET_NOT_READY_RETRIES (1U << 9)
#define GODWIT_RDMA_SET_NOT_READY_TIMER	  (1U << 10)
#define GODWIT_RDMA_SET_READS_OUT	  (1U << 11)
#define GODWIT_RDMA_SET_READS_IN	  (1U << 12)
#define GODWIT_RDMA_SET_QUEUE_KEY	  (1U << 13)

/*
 * What a change of state needs (RC, UC, UD), as for the verbs of the same name:
 *	RESET to INIT	ACCESS (RC, UC); QUEUE_KEY (UD)
 *	INIT to RTR	ENDS, MTU; PEER, RECEIVE_PSN (RC, UC); READS_IN, NOT_READY_TIMER (RC)
 *	RTR to RTS	SEND_PSN; TIMEOUT, RETRIES, NOT_READY_RETRIES, READS_OUT (RC)
 *	RTS to SQD and back	nothing
 *	any to ERROR, any to RESET	nothing
 * ACCESS, NOT_READY_TIMER and QUEUE_KEY may be set with each of these, and without SET_STATE in any
 * state but RESET.
 */
struct godwit_rdma_attributes {
	enum godwit_rdma_state state;
	uint32_t access; /* GODWIT_RDMA_REMOTE_… */
	/* As packets go out. Of a datagram's only the source counts; ::, if it is any own one. */
	struct godwit_rdma_ends ends;
	uint32_t mtu;  /* 256, 512, 1024, 2048 or 4096 */
	uint32_t peer; /* number of its queue pair */
	uint32_t receive_psn, send_psn;
	uint8_t timeout;	     /* 4.096 us << timeout, at most 31; 0: never */
	uint8_t retries;	     /* at most 7 */
	uint8_t not_ready_retries;   /* at most 7, which is for ever */
	uint8_t not_ready_timer;     /* code, at most 31: what peers are told to wait */
	uint8_t reads_out, reads_in; /* reads and atomics at once, at most GODWIT_RDMA_READS_MAX */
	uint32_t queue_key;
};

int godwit_rdma_pair_modify(struct godwit_rdma_pair *pair,
			    const struct godwit_rdma_attributes *attributes, uint32_t mask);

#define GODWIT_RDMA_SIGNALED  (1U << 8)	 /* has a completion when it succeeds too */
#define GODWIT_RDMA_SOLICITED (1U << 9)	 /* the receiver is to be notified */
#define GODWIT_RDMA_FENCED    (1U << 10) /* begins when all reads and atomics before are complete */

struct godwit_rdma_work {
	uint64_t id;
	enum godwit_rdma_operation operation;
	/* Those above, GODWIT_RDMA_WITH_IMMEDIATE (SEND, WRITE) or GODWIT_RDMA_WITH_INVALIDATE (SEND of RC). */
	uint32_t flags;
	const struct godwit_rdma_segment *segments; /* of this end; copied */
	uint32_t segment_count;
	/*
	 * Instead of segments, for SEND and WRITE: bytes, which are copied, as many as segments of the send
	 * queue (send_segments, 16 each) have room for.
	 */
	const void *bytes;
	uint32_t byte_count;
	uint32_t immediate;
	uint32_t invalidate;	 /* the peer's key; INVALIDATE: this end's */
	uint64_t remote_address; /* WRITE, READ, atomics */
	uint32_t remote_key;
	uint64_t compare, swap; /* COMPARE_SWAP; FETCH_ADD adds @swap */
	/* Datagrams. */
	uint8_t source[16]; /* when the queue pair's own is :: */
	uint8_t destination[16];
	uint8_t next_hop[6]; /* as struct godwit_rdma_ends has it */
	uint32_t destination_pair;
	uint32_t queue_key;
	/*
	 * BIND: keys of the window and of the region. What the window, or, with REGISTER, the region of
	 * key bind_key is to have; the new key differs from the old one in its lowest 8 bits only.
	 */
	uint32_t window, region;
	uint64_t bind_address, bind_size; /* size 0: of nothing, windows of type 1 only */
	uint32_t bind_access, bind_key;
	uint64_t register_data[2]; /* the user's, for @registered */
};

/* What is wrong with the work itself is found when it begins, and completes it with an error. */
int godwit_rdma_pair_send(struct godwit_rdma_pair *pair, const struct godwit_rdma_work *work);
int godwit_rdma_pair_receive(struct godwit_rdma_pair *pair,
			     const struct godwit_rdma_receive_work *work);
int godwit_rdma_shared_receive(struct godwit_rdma_shared *shared,
			       const struct godwit_rdma_receive_work *work);
/*
 * There are new receives among those that the user keeps. Needed only in the state ERROR, in which they
 * are flushed.
 */
void godwit_rdma_pair_receives_wait(struct godwit_rdma_pair *pair);

/* --- State ------------------------------------------------------------------------------------- */

/*
 * What has become of an engine and of everything that was made from it, as bytes that another process,
 * on another host, can go on with: numbers, keys, sequence numbers, work that is under way, what is kept
 * for peers that ask again. Peers notice nothing but packets that are lost while neither engine is
 * given any. docs/rdma.md describes the bytes.
 *
 * Not in it: what the user made the objects with, memory, and what is in ports. The other end makes the same
 * objects first, with the same options, keys and numbers (completion queues and shared receive queues
 * have some for this purpose), in any order. Of two engines with one state only one may go on.
 */
#define GODWIT_RDMA_STATE_VERSION 1
#define GODWIT_RDMA_REASON_MAX	  256U

/* *@bytes is to be freed with free. The engine goes on, or does not, as its user likes. */
int godwit_rdma_save(struct godwit_rdma *engine, void **bytes, size_t *size);
/*
 * The bytes may be a stranger's. -EINVAL: not such a state, or not of these objects; @reason says why (of
 * -ENOMEM too). The engine and its objects can only be destroyed then. Else what has no answer is sent again when the
 * engine is polled, and peers are asked for what they have sent in vain.
 */
int godwit_rdma_load(struct godwit_rdma *engine, const void *bytes, size_t size,
		     char reason[GODWIT_RDMA_REASON_MAX]);

/* --- Ports ------------------------------------------------------------------------------------- */

struct godwit_rdma_udp;
struct godwit_rdma_loop;
struct godwit_rdma_member;

/*
 * An UDP socket, in the network namespace of the caller. It speaks with Linux's rxe. Packets of the same
 * length to the same peer leave together where the kernel can cut them apart (UDP_SEGMENT).
 *
 * The kernel does not tell a socket the identification of an IPv4 packet, which the CRC covers. It is
 * found from the CRC, of whose 32 bits 15 remain to notice damage. IPv6 has no such thing.
 */
struct godwit_rdma_udp_counters {
	uint64_t received, sent;
	uint64_t bad_crc; /* or too short, or too long */
	uint64_t unsent;  /* which the kernel refused */
};

/*
 * Binds port 4791 of @address, which belongs to this machine. Negative errno of the system call that
 * failed: -EADDRINUSE: rxe, or somebody else, has it.
 */
int godwit_rdma_udp_open(const uint8_t address[16], struct godwit_rdma_udp **udp);
/* The same, but the address may be one that this machine does not have yet: nothing leaves or comes until then. */
int godwit_rdma_udp_open_ahead(const uint8_t address[16], struct godwit_rdma_udp **udp);
/* The engine that uses it is gone. Accepts NULL. */
void godwit_rdma_udp_close(struct godwit_rdma_udp *udp);
struct godwit_rdma_port godwit_rdma_udp_port(struct godwit_rdma_udp *udp);
/* To watch: for input, and for output while packets wait (godwit_rdma_udp_waits). */
int godwit_rdma_udp_fd(const struct godwit_rdma_udp *udp);
bool godwit_rdma_udp_waits(const struct godwit_rdma_udp *udp);
/*
 * Gives packets that have come to @engine, without waiting, at most a few hundred. Returns how many; 0:
 * there was none.
 */
uint32_t godwit_rdma_udp_receive(struct godwit_rdma_udp *udp, struct godwit_rdma *engine,
				 int64_t now);
void godwit_rdma_udp_get_counters(const struct godwit_rdma_udp *udp,
				  struct godwit_rdma_udp_counters *counters);

/*
 * Engines of one process and one thread: packets are copied from one to the other, without a CRC. A
 * packet leaves with its member's own address only; one to an address that nobody has, or to a member
 * whose queue is full, is lost.
 */
int godwit_rdma_loop_create(struct godwit_rdma_loop **loop);
/* -EBUSY: it has members. Accepts NULL. */
int godwit_rdma_loop_destroy(struct godwit_rdma_loop *loop);
/* With room for @capacity packets, 1 to GODWIT_RDMA_QUEUE_MAX. -EEXIST: the address is taken. */
int godwit_rdma_loop_join(struct godwit_rdma_loop *loop, const uint8_t address[16],
			  uint32_t capacity, struct godwit_rdma_member **member);
/* The engine that uses it is gone. Accepts NULL. */
void godwit_rdma_loop_leave(struct godwit_rdma_member *member);
struct godwit_rdma_port godwit_rdma_loop_port(struct godwit_rdma_member *member);
/* Gives the packets that have come to @engine; returns how many. */
uint32_t godwit_rdma_loop_receive(struct godwit_rdma_member *member, struct godwit_rdma *engine,
				  int64_t now);
/* Packets that were lost on the way to it. */
uint64_t godwit_rdma_loop_lost(const struct godwit_rdma_member *member);

#ifdef __cplusplus
}
#endif

#endif
