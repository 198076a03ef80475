/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the parts of the RDMA device know of each other:
 *
 *	rdma.c		the device: its turns, its configuration, what it tells the driver
 *	rdma_command.c	commands of the driver
 *	rdma_pair.c	queue pairs
 *	rdma_work.c	work requests, from guest memory into the engine
 *	rdma_receives.c	receives, likewise; shared receive queues
 *	rdma_completions.c	completion queues
 *	rdma_region.c	runs of guest memory, queues and regions that are made of them
 *	rdma_object.c	numbers of objects, and events of theirs that are to be told
 *	rdma_state.c	saving and loading all of it
 *	rdma_udp.c	the port over a socket
 *	rdma_tap.c	the port over the machine's own network interface
 *
 * All of it runs on the device's loop, and touches guest memory only in a read section, which a turn and
 * a command open.
 */
#ifndef GODWIT_VIRTIO_RDMA_PRIVATE_H
#define GODWIT_VIRTIO_RDMA_PRIVATE_H

#include "base/checked.h"
#include "virtio/rdma.h"

/* Limits that the driver is told. */
#define PAIRS_MAX	1024U
#define COMPLETIONS_MAX 1024U
#define SHARED_MAX	256U
#define DOMAINS_MAX	256U
#define REGIONS_MAX	16384U
#define WINDOWS_MAX	16384U
#define QUEUE_SLOTS_MAX 8192U
#define CQ_SLOTS_MAX	65536U
#define SEGMENTS_MAX	GODWIT_RDMA_SEGMENTS_MAX
#define INLINE_MAX	(16U * SEGMENTS_MAX)
#define STRIDE_MAX	1024U
#define FAST_PAGES_MAX	512U
#define COMMAND_MAX	131072U
#define COMMAND_BUFFERS 64U
#define GIDS_MAX	VIRTIO_RDMA_ADDRESSES
#define RUNS_MAX                                                                                   \
	(UINT32_C(1) << 22)	/* of everything: the memory that a guest can make the host use */
#define IN_ENGINE_MAX	   128U /* work requests of a pair that were given to the engine */
#define GENERAL_NUMBER	   1U	/* of the general services queue pair */
#define QP_ATTRIBUTES_SIZE 80U

/* Events (docs/virtio-rdma.md); those below 0x100 are bits of an object's events. */
enum {
	EVENT_CQ_ERR = 0,
	EVENT_QP_FATAL = 1,
	EVENT_QP_REQ_ERR = 2,
	EVENT_QP_ACCESS_ERR = 3,
	EVENT_COMM_EST = 4,
	EVENT_SQ_DRAINED = 5,
	EVENT_SRQ_LIMIT_REACHED = 15,
	EVENT_QP_LAST_WQE_REACHED = 16,
	EVENT_COMPLETION = 31, /* told as 0x100 */
};

struct virtio_rdma;

/* Commands that make something, by which states name it. */
enum {
	COMMAND_CREATE_PD = 1,
	COMMAND_CREATE_CQ = 3,
	COMMAND_CREATE_SRQ = 5,
	COMMAND_CREATE_QP = 9,
	COMMAND_CREATE_MR = 13,
	COMMAND_CREATE_MW = 16,
};

/* A command; the request is at least as long as its fixed part. 0 or the status. */
typedef uint32_t adapter_command(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
				 uint8_t *answer);

enum { QUEUE_CONTROL, QUEUE_EVENTS, QUEUE_KICK, QUEUE_COUNT };

/* --- Objects ----------------------------------------------------------------------------------- */

#define MADE_MAX 64U

/* The first member of each object that the driver made. */
struct adapter_object {
	uint32_t number;
	uint8_t made[MADE_MAX]; /* the command that made it, without its runs */
	uint32_t events;	/* bits, that are to be told */
	struct adapter_object *event_next;
	bool event_listed;
};

/* Objects of a kind by their numbers. A number is not given away again soon. */
struct adapter_numbers {
	struct adapter_object **objects;
	uint32_t capacity; /* a power of two */
	uint32_t last;	   /* number that can be; a power of two less 1 */
	uint32_t next;	   /* number that is tried next */
};

bool adapter_numbers_init(struct adapter_numbers *numbers, uint32_t capacity, uint32_t last);
void adapter_numbers_free(struct adapter_numbers *numbers);
/* Gives @object a number. False: there are as many as there can be. */
bool adapter_numbers_add(struct adapter_numbers *numbers, struct adapter_object *object);
/* Does nothing if @object has no number. */
void adapter_numbers_remove(struct adapter_numbers *numbers, const struct adapter_object *object);
/* Whether an object has the place of @number. */
bool adapter_numbers_taken(const struct adapter_numbers *numbers, uint32_t number);
/* Calls @visit for each object, which it may remove. */
void adapter_numbers_each(struct adapter_numbers *numbers, struct virtio_rdma *rdma,
			  void (*visit)(struct virtio_rdma *rdma, struct adapter_object *object));
/* NULL: there is none. */
struct adapter_object *adapter_numbers_find(const struct adapter_numbers *numbers, uint32_t number);

/* Event @bit of @object is to be told. */
void adapter_object_event(struct virtio_rdma *rdma, struct adapter_object *object,
			  unsigned int bit);
/* Nothing of @object is to be told any more. */
void adapter_object_forget_events(struct virtio_rdma *rdma, struct adapter_object *object);
/* The next event; false: there is none. */
bool adapter_object_next_event(struct virtio_rdma *rdma, uint32_t *type, uint32_t *number);

/* --- Memory ------------------------------------------------------------------------------------ */

struct adapter_run {
	uint64_t address;
	uint64_t end; /* bytes of this run and those before it */
};

struct adapter_runs {
	struct adapter_run *list;
	uint32_t count, room;
	uint64_t size; /* bytes of all */
};

/*
 * Adds @count runs as commands have them. 0, ENOMEM, or EINVAL: an empty one, one that wraps, or more
 * than @limit bytes in all.
 */
uint32_t adapter_runs_add(struct virtio_rdma *rdma, struct adapter_runs *runs, const uint8_t *list,
			  uint32_t count, uint64_t limit);
void adapter_runs_free(struct virtio_rdma *rdma, struct adapter_runs *runs);

/*
 * Guest memory at @address: *@host, and of *@there bytes that are wanted how many lie in one piece. False:
 * the first byte is not there.
 */
bool adapter_span(struct virtio_rdma *rdma, uint64_t address, uint64_t *there,
		  enum memory_access_mode mode, uint8_t **host);

/* A queue in guest memory. */
struct adapter_ring {
	struct adapter_runs runs;
	uint32_t slots, stride;
	uint32_t own; /* the index that is the device's: of the slot that it takes or fills next */
};

#define RING_ARMED	     8U
#define RING_ARMED_SOLICITED 1U
#define RING_PRODUCER	     128U
#define RING_CONSUMER	     256U
#define RING_ELEMENTS	     384U

/*
 * @slots of @stride bytes in the @count runs of @list. 0, or the status of the command. Undone by
 * adapter_ring_free, after a failure too.
 */
uint32_t adapter_ring_create(struct virtio_rdma *rdma, struct adapter_ring *ring, uint32_t slots,
			     uint32_t stride, const uint8_t *list, uint32_t count);
void adapter_ring_free(struct virtio_rdma *rdma, struct adapter_ring *ring);
/* The first @size bytes of an element. False: the memory is not there. */
bool adapter_ring_read(struct virtio_rdma *rdma, const struct adapter_ring *ring, uint32_t slot,
		       uint8_t *bytes, uint32_t size);
bool adapter_ring_write(struct virtio_rdma *rdma, const struct adapter_ring *ring, uint32_t slot,
			const uint8_t *bytes, uint32_t size);
/* The driver's index at @offset, which is masked, with what was written before it. */
bool adapter_ring_load(struct virtio_rdma *rdma, const struct adapter_ring *ring, uint32_t offset,
		       uint32_t *index);
/* The device's index, after what was written before it. */
void adapter_ring_store(struct virtio_rdma *rdma, const struct adapter_ring *ring, uint32_t offset,
			uint32_t index);
/* True if the driver wants to be told of what was added; it then does not any more. */
bool adapter_ring_disarm(struct virtio_rdma *rdma, const struct adapter_ring *ring, bool solicited);

static inline uint32_t adapter_ring_next(const struct adapter_ring *ring, uint32_t slot)
{
	return (slot + 1) & (ring->slots - 1);
}

/*
 * Objects by kind. Their free functions also undo what was half made; the engine's half must not be in
 * use any more.
 */
struct adapter_domain {
	struct adapter_object object;
	struct godwit_rdma_domain *domain;
};

/* A region or a window: their keys are of one space. */
struct adapter_key {
	struct adapter_object object; /* number: the key's upper 24 bits */
	struct virtio_rdma *rdma;
	struct godwit_rdma_region *region; /* one of these two */
	struct godwit_rdma_window *window;
	bool all_memory;
	struct adapter_runs runs; /* of memory; whole when their size is @length */
	uint64_t length;
	/* For fast registration. */
	uint64_t *pages;
	uint32_t pages_max, page_shift;
	uint64_t first; /* offset in the first page */
};

adapter_command adapter_region_create, adapter_region_extend, adapter_region_destroy,
    adapter_window_create, adapter_window_destroy;
void adapter_key_free(struct virtio_rdma *rdma, struct adapter_object *object);

/* --- Queues ------------------------------------------------------------------------------------ */

struct adapter_completions {
	struct adapter_object object;
	struct virtio_rdma *rdma;
	struct godwit_rdma_completions *completions;
	struct adapter_ring ring;
};

adapter_command adapter_completions_create, adapter_completions_destroy;
void adapter_completions_free(struct virtio_rdma *rdma, struct adapter_object *object);

/* Receives: of a pair, or shared. */
struct adapter_receives {
	struct virtio_rdma *rdma;
	struct adapter_ring ring;
	uint32_t segments; /* at most */
};

/* Whether a queue for receives can be like this. */
bool adapter_receives_fit(uint32_t slots, uint32_t stride, uint32_t segments);
/* As godwit_rdma_receives has it; @context: struct adapter_receives. */
bool adapter_receives_take(void *context, struct godwit_rdma_receive_work *work,
			   struct godwit_rdma_segment *segments);

struct adapter_shared {
	struct adapter_object object;
	struct godwit_rdma_shared *shared;
	struct adapter_receives receives;
	uint32_t limit;
};

adapter_command adapter_shared_create, adapter_shared_modify, adapter_shared_query,
    adapter_shared_destroy;
void adapter_shared_free(struct virtio_rdma *rdma, struct adapter_object *object);

struct adapter_pair {
	struct adapter_object object;
	struct virtio_rdma *rdma;
	struct godwit_rdma_pair *pair;
	enum godwit_rdma_service service;
	struct adapter_ring sends; /* own: the next work request that goes to the engine */
	uint32_t done;		   /* the next one that will be complete */
	uint32_t in_engine;	   /* between these two */
	uint32_t send_segments, send_inline;
	struct adapter_receives receives; /* without slots: shared */
	uint8_t attributes[QP_ATTRIBUTES_SIZE];
	/* Of those that may have work for the engine. */
	struct adapter_pair *feed_next;
	bool feed_listed;
};

adapter_command adapter_pair_create, adapter_pair_modify, adapter_pair_query, adapter_pair_destroy;
/* This machine is a copy: its connections are those of another one. They fail. */
void adapter_pairs_disconnect(struct virtio_rdma *rdma);
void adapter_pair_free(struct virtio_rdma *rdma, struct adapter_object *object);
/* NULL: there is none with this number. */
struct adapter_pair *adapter_pair_find(const struct virtio_rdma *rdma, uint32_t number);
/* @pair may have work for the engine. */
void adapter_pair_will_feed(struct adapter_pair *pair);
void adapter_pair_will_not_feed(struct adapter_pair *pair);
struct godwit_rdma_segment adapter_segment_decode(const uint8_t *bytes);
/* Gives work to the engine, of each pair that may have some. */
void adapter_pairs_feed(struct virtio_rdma *rdma);

void adapter_domain_free(struct virtio_rdma *rdma, struct adapter_object *object);

/* Executes the commands that wait. */
void adapter_commands_run(struct virtio_rdma *rdma);
/* Executes one that makes something, of a state. 0 or the status. */
uint32_t adapter_command_execute(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size);

/* --- The device -------------------------------------------------------------------------------- */

/* Of a state that is coming. */
struct adapter_bytes {
	uint8_t *bytes;
	size_t size, room;
};

struct virtio_rdma {
	struct virtio_device device;
	uint8_t mac[6];
	struct virtio_rdma_port port;
	struct event_source *source;
	struct event_timer *timer;
	struct godwit_rdma *engine;
	/* Addresses; an empty one is all zero. */
	uint8_t gids[GIDS_MAX][16];
	/* Objects. */
	struct adapter_numbers domains, completions, shared, pairs, keys;
	struct adapter_pair *general; /* the pair with number GENERAL_NUMBER, or NULL */
	uint32_t regions, windows;    /* counts */
	uint32_t runs;		      /* in all objects */
	struct adapter_object *events, *events_last;
	struct adapter_pair *feed, *feed_last;
	struct adapter_bytes taken;
	bool loading;  /* a state: memory may not be there yet */
	bool copied;   /* its connections are to fail when it goes on */
	bool discards; /* the packet that is being made cannot leave */
	uint64_t commands, refused_commands;
	uint8_t command[COMMAND_MAX];
	uint8_t discarded[GODWIT_RDMA_PACKET_MAX];
};

/* The address of the machine's interface, also of what leaves. */
void virtio_rdma_set_mac(struct virtio_rdma *rdma, const uint8_t mac[6]);
/* Entry @index of the table becomes @gid; ::, which is no address: empty. */
void virtio_rdma_set_gid(struct virtio_rdma *rdma, uint32_t index, const uint8_t gid[16]);
static inline struct virtio_rdma *virtio_rdma_of(struct virtio_device *device)
{
	return CONTAINER_OF(device, struct virtio_rdma, device);
}

extern const struct virtio_stream_ops virtio_rdma_stream_ops;
/* What is not in the stream. */
void virtio_rdma_visit_state(struct virtio_device *device, struct state *state);

/* Whether @gid may be the source of packets: it is in the table, and the port can. */
bool virtio_rdma_may_send_from(const struct virtio_rdma *rdma, const uint8_t gid[16]);

#endif
