/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the parts of the engine know of each other. Its users have include/godwit/rdma.h.
 *
 *	engine.c	dispatches packets, timers, and the queue pairs that have something to send
 *	memory.c	domains, regions, windows; copies to and from the memory behind a key
 *	completions.c	completion queues
 *	receives.c	receive queues, own and shared
 *	pair.c		queue pairs: their states and their posted work
 *	requester.c	sends requests, and goes back; requester_answers.c takes their answers
 *	responder.c	executes requests; responder_answers.c sends acknowledgements and what was read
 *	datagram.c	what is different for UD
 *	state.c		saves and loads all of it; state_pair.c queue pairs
 *
 * All of it runs on the engine's thread.
 */
#ifndef GODWIT_RDMA_ENGINE_H
#define GODWIT_RDMA_ENGINE_H

#include <godwit/rdma.h>

#include "base/checked.h"
#include "base/state.h"
#include "rdma/packet.h"
#include "rdma/table.h"

#define RDMA_NS_PER_US	     INT64_C(1000)
#define RDMA_PATIENCE	     (1000 * RDMA_NS_PER_US) /* until memory that is not there is tried again */
#define RDMA_DATAGRAM_HEADER 40U /* bytes of IP header that a receive of UD begins with */

/* --- Memory ------------------------------------------------------------------------------------ */

struct godwit_rdma_domain {
	struct godwit_rdma *engine;
	uint32_t users; /* everything made from it */
};

struct godwit_rdma_region {
	struct rdma_table_entry entry; /* by key >> 8; first, as in windows */
	bool is_window;		       /* false; second, as in windows */
	uint32_t key;
	struct godwit_rdma_domain *domain;
	struct godwit_rdma_memory memory;
	bool by_work;
	uint64_t address, size; /* size 0: of those by work, no bytes now */
	uint32_t access;
	uint32_t windows; /* bound to it */
};

struct godwit_rdma_window {
	struct rdma_table_entry entry;
	bool is_window; /* true */
	uint32_t key;
	struct godwit_rdma_domain *domain;
	unsigned int type;
	struct godwit_rdma_region *region; /* NULL: bound to nothing */
	uint64_t address, size;
	uint32_t access;
	uint32_t pair; /* type 2: number of the queue pair that bound it */
};

/* Bytes behind a key, found and allowed. */
struct rdma_place {
	const struct godwit_rdma_region *region;
	uint64_t offset;
};

/*
 * Finds the @size bytes at @address that @pair's peer names by @key, with the rights @access. False:
 * there is no such key, in this domain, for this pair, with these rights, or not all the bytes.
 */
bool rdma_find_remote(struct godwit_rdma_pair *pair, uint32_t key, uint64_t address, uint64_t size,
		      uint32_t access, struct rdma_place *place);
/* The same for a segment of this end's work. */
bool rdma_find_local(struct godwit_rdma_pair *pair, const struct godwit_rdma_segment *segment,
		     bool write, struct rdma_place *place);

/* 0, -EAGAIN (memory that is not there now) or -EACCES. Part may have been copied then. */
int rdma_copy_in(const struct rdma_place *place, uint64_t more, const uint8_t *bytes,
		 uint32_t size);
int rdma_copy_out(const struct rdma_place *place, uint64_t more, uint8_t *bytes, uint32_t size);
/* As these, for @size bytes at @offset of the message that @segments make up. */
int rdma_scatter(struct godwit_rdma_pair *pair, const struct godwit_rdma_segment *segments,
		 uint32_t count, uint64_t offset, const uint8_t *bytes, uint32_t size);
int rdma_gather(struct godwit_rdma_pair *pair, const struct godwit_rdma_work *work, uint64_t offset,
		uint8_t *bytes, uint32_t size);
/* The same for @size bytes that are to be read later, without a copy. */
int rdma_probe(const struct rdma_place *place, uint64_t size);
/* An atomic operation on 8 bytes; *@original is what was there. As above; -EINVAL: not aligned. */
int rdma_atomic(const struct rdma_place *place, const struct rdma_packet *request,
		uint64_t *original);

/* True if a region can be like this. Who may write from afar must be able to here, as for the verbs. */
bool rdma_region_can_have(uint64_t address, uint64_t size, uint32_t access);
/* Executes GODWIT_RDMA_BIND. False: refused. */
bool rdma_bind_window(struct godwit_rdma_pair *pair, const struct godwit_rdma_work *work);
/* Executes GODWIT_RDMA_REGISTER. False: refused. */
bool rdma_register_region(struct godwit_rdma_pair *pair, const struct godwit_rdma_work *work);
/*
 * Invalidates a window of type 2 that @pair has bound, or a region by work; for a peer (@remote) one that
 * it has a right to. False: there is none.
 */
bool rdma_invalidate(struct godwit_rdma_pair *pair, uint32_t key, bool remote);
/* @pair is going: windows of type 2 that it has bound are bound no longer. */
void rdma_unbind_windows(struct godwit_rdma_pair *pair);

/* --- Completions ------------------------------------------------------------------------------- */

struct godwit_rdma_completions {
	struct rdma_table_entry entry; /* by number */
	struct godwit_rdma *engine;
	struct godwit_rdma_completions_options options;
	struct godwit_rdma_completion *ring;
	uint32_t head, tail; /* taken, added; they wrap */
	uint32_t pairs;	     /* that use it */
	bool armed, armed_solicited, overrun;
};

/* Completions that were added and not taken. */
uint32_t rdma_completions_used(const struct godwit_rdma_completions *completions);
/* False: no room, or there was none once: the completion is lost, and its pair must fail. */
bool rdma_completions_add(struct godwit_rdma_completions *completions,
			  const struct godwit_rdma_completion *completion, bool solicited);

/* --- Receives ---------------------------------------------------------------------------------- */

struct rdma_receive {
	uint64_t id;
	uint32_t segment_count;
	const struct godwit_rdma_segment *segments;
};

struct rdma_receive_queue {
	struct godwit_rdma_receives receives; /* take: instead of the rest */
	uint32_t capacity, segments_max;
	uint32_t head, tail; /* taken, posted; they wrap */
	uint64_t *ids;
	uint32_t *segment_counts;
	struct godwit_rdma_segment *segments;
};

struct godwit_rdma_shared {
	struct rdma_table_entry entry; /* by number */
	struct godwit_rdma_domain *domain;
	struct rdma_receive_queue queue;
	uint32_t limit, pairs;
};

bool rdma_receive_queue_init(struct rdma_receive_queue *queue,
			     const struct godwit_rdma_receives *receives, uint32_t capacity,
			     uint32_t segments);
void rdma_receive_queue_free(struct rdma_receive_queue *queue);
/* 0, -EINVAL or -ENOSPC. */
int rdma_receive_queue_post(struct rdma_receive_queue *queue,
			    const struct godwit_rdma_receive_work *work);
/* Takes the oldest receive, with a copy of its segments in @segments. False: there is none. */
bool rdma_receive_queue_take(struct rdma_receive_queue *queue, struct rdma_receive *receive,
			     struct godwit_rdma_segment *segments);

/* --- Queue pairs ------------------------------------------------------------------------------- */

/* Posted work of the send queue. */
struct rdma_send {
	struct godwit_rdma_work work;
	uint64_t size;
	uint32_t psn, packets; /* first number, how many: known when it has begun */
	bool refused;	       /* it completes with @status when its turn comes */
	enum godwit_rdma_status status;
};

/* A read or atomic that the responder executed, kept for the peer that asks again. */
struct rdma_read {
	uint32_t psn, packets;
	bool atomic;
	uint64_t address, original;
	uint32_t key, size;
};

/* Answers that are to be sent: packets @psn to @end (exclusive) of a read. */
struct rdma_answer {
	uint32_t read; /* index in reads */
	uint32_t psn, first, end;
	bool again; /* the peer has asked for it before */
};

enum rdma_message {
	RDMA_NO_MESSAGE,
	RDMA_MESSAGE_SEND,
	RDMA_MESSAGE_WRITE,
};

enum rdma_timer {
	RDMA_NO_TIMER,
	RDMA_TIMER_ANSWER, /* nothing has come for too long */
	RDMA_TIMER_PAUSE,  /* sending goes on */
};

struct rdma_requester {
	uint32_t capacity, segments_max;
	struct rdma_send *sends;
	struct godwit_rdma_segment *segments;
	/* Counters that wrap: complete, being sent, begun, posted. */
	uint32_t head, cursor, begun, tail;
	/* Sequence numbers: without an answer, to be sent, after all that were sent, not given away. */
	uint32_t oldest, psn, sent, next;
	/* Ends (exclusive) of reads and atomics that were sent and not answered. */
	uint32_t reads[GODWIT_RDMA_READS_MAX];
	uint32_t read_head, read_tail;
	uint8_t retries, not_ready_retries; /* that are left */
	bool went_back;			    /* for a gap, and nothing new was answered since */
	bool drained;			    /* was told */
	enum rdma_timer timer;
	int64_t timer_at;
};

struct rdma_responder {
	struct rdma_receive_queue queue;
	uint32_t psn, messages;
	bool established;
	/* A message that has begun. */
	enum rdma_message message;
	uint64_t received;
	struct rdma_receive receive;
	struct godwit_rdma_segment segments[GODWIT_RDMA_SEGMENTS_MAX];
	bool has_receive;
	uint64_t address; /* of a write: next */
	uint32_t key, left;
	/* What it owes. */
	bool acknowledge;
	uint8_t refusal; /* syndrome; 0: none */
	bool gap;	 /* refused or not ready: nothing more is said until the right one comes */
	struct rdma_read reads[GODWIT_RDMA_READS_MAX];
	uint32_t read_next; /* counter that wraps at reads_in */
	struct rdma_answer answers[GODWIT_RDMA_READS_MAX * 2];
	uint32_t answer_head, answer_tail, answers_first; /* of those, not asked for again */
	bool paused;					  /* until memory may be there */
	int64_t resume_at;
};

struct godwit_rdma_pair {
	struct rdma_table_entry entry; /* by number */
	struct godwit_rdma *engine;
	struct godwit_rdma_domain *domain;
	struct godwit_rdma_completions *send_completions, *receive_completions;
	struct godwit_rdma_shared *shared;
	enum godwit_rdma_service service;
	bool signal_all;
	void (*sent)(void *context);
	void *context; /* for sent */
	enum godwit_rdma_state state;
	struct godwit_rdma_attributes attributes;
	struct rdma_requester requester;
	struct rdma_responder responder;
	/* Of the pairs that have something to send. */
	struct godwit_rdma_pair *ready_next, *ready_previous;
	bool ready;
	/* Of those with a timer. */
	struct godwit_rdma_pair *timed_next, *timed_previous;
	bool timed;
};

struct godwit_rdma {
	struct godwit_rdma_options options;
	struct godwit_rdma_counters counters;
	int64_t now;
	struct rdma_table keys, pairs, completions, shared;
	uint32_t next_index, next_pair, next_number;
	uint8_t generation;
	uint32_t users; /* domains and completion queues */
	struct godwit_rdma_pair *ready_head, *ready_tail, *timed;
	int64_t timers_at; /* no timer ends before that */
	bool blocked;	   /* the port had no room */
};

/* A number of @table that is free: @wanted, or any for 0. 0 or -EEXIST. */
int rdma_choose_number(struct godwit_rdma *engine, const struct rdma_table *table, uint32_t wanted,
		       uint32_t *number);
/* @pair has something to send. */
void rdma_pair_ready(struct godwit_rdma_pair *pair);
void rdma_pair_not_ready(struct godwit_rdma_pair *pair);
/* Starts or (RDMA_NO_TIMER) stops the pair's timer. */
void rdma_pair_timer(struct godwit_rdma_pair *pair, enum rdma_timer timer, int64_t delay);
/* Of both halves, before the pair is no more or is reset. */
void rdma_pair_stop_timers(struct godwit_rdma_pair *pair);
/* The pair's responder sends nothing for a moment: memory is not there now. */
void rdma_responder_pause(struct godwit_rdma_pair *pair);
void rdma_event(struct godwit_rdma *engine, enum godwit_rdma_event_type type,
		struct godwit_rdma_pair *pair);
/* Room for a packet to the pair's peer; NULL: none. rdma_commit sends it. */
uint8_t *rdma_reserve(struct godwit_rdma_pair *pair, uint32_t size);
uint8_t *rdma_reserve_for(struct godwit_rdma_pair *pair, const struct godwit_rdma_ends *ends,
			  uint32_t size);
void rdma_commit(struct godwit_rdma *engine);

/* Packets of a message of @size bytes. */
static inline uint32_t rdma_packets_of(const struct godwit_rdma_pair *pair, uint64_t size)
{
	return size ? (uint32_t)((size + pair->attributes.mtu - 1) / pair->attributes.mtu) : 1;
}

/* The state in which a pair takes packets. */
static inline bool rdma_pair_receives(const struct godwit_rdma_pair *pair)
{
	return pair->state >= GODWIT_RDMA_RTR && pair->state <= GODWIT_RDMA_SQD;
}

/* Whether queue pairs get @number when they are given any. */
bool rdma_pair_number_fits(uint32_t number);
/* True if the values of @attributes that @mask names are ones that can be. */
bool rdma_attributes_fit(const struct godwit_rdma_attributes *attributes, uint32_t mask);
/* Everything that is posted completes as flushed; what is owed to the peer stays owed. */
void rdma_pair_fail(struct godwit_rdma_pair *pair);
/* A completion of the send queue for @send, if it has one. */
void rdma_complete_send(struct godwit_rdma_pair *pair, const struct rdma_send *send,
			enum godwit_rdma_status status);
/* Fails the pair when there is no room. */
void rdma_complete_receive(struct godwit_rdma_pair *pair,
			   const struct godwit_rdma_completion *completion, bool solicited);
/* Takes the next receive, own or shared, into @receive and @segments. False: there is none. */
bool rdma_take_receive(struct godwit_rdma_pair *pair, struct rdma_receive *receive,
		       struct godwit_rdma_segment *segments);

/* --- Their halves ------------------------------------------------------------------------------ */

static inline struct rdma_send *rdma_send_at(const struct godwit_rdma_pair *pair, uint32_t counter)
{
	return &pair->requester.sends[counter % pair->requester.capacity];
}

bool rdma_requester_init(struct godwit_rdma_pair *pair, uint32_t capacity, uint32_t segments);
void rdma_requester_free(struct godwit_rdma_pair *pair);
/* What is wrong with the form of @send, which is not for this end only; or GODWIT_RDMA_SUCCESS. */
enum godwit_rdma_status rdma_requester_judge(const struct godwit_rdma_pair *pair,
					     const struct rdma_send *send);
/* True if @send is for this end only. */
bool rdma_send_is_local(const struct rdma_send *send);
/* Whether posted work can be of @operation. */
bool rdma_can_be_sent(enum godwit_rdma_operation operation);
/* Sends up to @budget packets. True: there is more that can be sent. */
bool rdma_requester_run(struct godwit_rdma_pair *pair, uint32_t budget);
void rdma_requester_timer(struct godwit_rdma_pair *pair);
/* Completes what is complete at the head of the queue. */
void rdma_requester_complete(struct godwit_rdma_pair *pair);
/* The oldest work fails for @status, and the pair with it. */
void rdma_requester_fail(struct godwit_rdma_pair *pair, enum godwit_rdma_status status);
/* Sends again from the oldest packet without an answer, after @delay. */
void rdma_requester_go_back(struct godwit_rdma_pair *pair, int64_t delay);
/* An answer came. */
void rdma_requester_receive(struct godwit_rdma_pair *pair, const struct rdma_packet *packet);
/* True if packets were sent that have no answer. */
bool rdma_requester_waits(const struct godwit_rdma_pair *pair);
void rdma_requester_expect_answer(struct godwit_rdma_pair *pair);

/* A request came. */
void rdma_responder_receive(struct godwit_rdma_pair *pair, const struct rdma_packet *packet);
/* Sends up to @budget answers. True: there are more that can be sent. */
bool rdma_responder_run(struct godwit_rdma_pair *pair, uint32_t budget);
/* A read or atomic was executed: its answer is to be sent. */
void rdma_responder_answer(struct godwit_rdma_pair *pair, uint32_t read, uint32_t psn, uint32_t end,
			   bool again);
/* The peer's request is refused for good, and the pair fails. */
void rdma_responder_refuse(struct godwit_rdma_pair *pair, uint8_t syndrome);

/* Bytes that a receive has room for. */
uint64_t rdma_receive_size(const struct rdma_receive *receive);

/* The state of a queue pair, whose number is known (state_pair.c). */
void rdma_pair_visit(struct godwit_rdma_pair *pair, struct state *state);
void rdma_segments_visit(struct godwit_rdma_segment *segments, uint32_t count, struct state *state);
/* Receives that the library keeps. */
void rdma_receive_queue_visit(struct rdma_receive_queue *queue, struct state *state);

/* UD. */
bool rdma_datagram_run(struct godwit_rdma_pair *pair, uint32_t budget);
void rdma_datagram_receive(struct godwit_rdma_pair *pair, const struct godwit_rdma_ends *ends,
			   const struct rdma_packet *packet);

#endif
