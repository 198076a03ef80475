/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a back-end holds of the guest's memory, and the messages that a change of the guest's memory
 * becomes: the front-end's shadow and its planner.
 *
 * The guest's memory is a number of *blocks*, of which any *units* are plugged. A back-end holds
 * *mappings*, at most its limit of them, which together cover everything that is plugged. The planner
 * keeps these promises, whatever is plugged and unplugged in whatever order:
 *
 *  1. everything that is plugged is covered; no two mappings overlap;
 *  2. there are never more mappings than the limit, not even between two messages;
 *  3. a mapping with plugged memory in it, or with memory that a live ring uses (pins), is neither
 *     removed nor sent again: a request that is under way never loses its memory;
 *  4. a change of one unit is at most one message: ADD_MEM_REG, REM_MEM_REG or nothing.
 *
 * A mapping cannot grow, shrink or be split without 3 being broken, for overlapping ones are not
 * allowed. So the planner must never get into a corner where that would be the only way. Blocks are
 * divided into *cells* of one size, which no mapping crosses. What a cell has not covered are its
 * *holes*. The sum of mappings and holes is kept within the limit: then, whatever is plugged next,
 * each hole can be filled with one mapping. An exact mapping in the middle of a hole adds 2 to that
 * sum, at its edge 1; where the limit does not allow it the mapping is made coarser, up to the hole's
 * edge (1) or the whole hole (0). Removing a mapping never adds. Cells bound how coarse a mapping gets,
 * and let a large plugged range be given up piece by piece; at most half of the limit goes to them.
 *
 * What is mapped and not plugged is the *excess* (vhost_user_memory_excess). It goes away with the
 * last plugged unit of its mapping, or, while no ring is live, with vhost_user_memory_tidy.
 *
 * No messages are sent from here and nothing waits; not for several threads at once.
 */
#ifndef GODWIT_VHOST_USER_MEMORY_H
#define GODWIT_VHOST_USER_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "vhost_user/message.h"

#define VHOST_USER_BLOCKS_MAX 64U
#define VHOST_USER_SLOTS_MAX  32764U /* mappings, whatever more a back-end says: KVM's own limit */
#define VHOST_USER_TABLE_MAX  VHOST_USER_REGIONS_MAX /* of a back-end without CONFIGURE_MEM_SLOTS */

/* A piece of guest memory in one file. Addresses and sizes are whole pages, in bytes. */
struct vhost_user_block {
	struct vhost_user_region region;
	int fd;	       /* borrowed: stays open as long as the block is known */
	uint64_t unit; /* what is plugged and unplugged, and divides the size; 0: always plugged */
};

struct vhost_user_memory;

/* One message that is to be sent. */
struct vhost_user_change {
	bool add; /* ADD_MEM_REG; otherwise REM_MEM_REG */
	struct vhost_user_region region;
	int fd; /* borrowed from the block */
};

/* In the order in which they are to be sent. Starts as zeros. */
struct vhost_user_plan {
	struct vhost_user_change *list;
	size_t count, capacity;
};

void vhost_user_plan_free(struct vhost_user_plan *plan);
#define AUTO_VHOST_USER_PLAN AUTO(vhost_user_plan_free)

/* Nothing is known, nothing is held. NULL: memory is short. */
struct vhost_user_memory *vhost_user_memory_create(void);
/* Accepts NULL. */
void vhost_user_memory_destroy(struct vhost_user_memory *memory);
DEFINE_CLEANUP(vhost_user_memory, struct vhost_user_memory *, vhost_user_memory_destroy)
#define AUTO_VHOST_USER_MEMORY AUTO(cleanup_vhost_user_memory)

/*
 * Adds a block, before vhost_user_memory_begin; its units are unplugged. Refused: one that overlaps
 * another in guest or user addresses, that wraps, whose unit is no power of two.
 */
struct error *vhost_user_memory_add_block(struct vhost_user_memory *memory,
					  const struct vhost_user_block *block) MUST_CHECK;

/*
 * The back-end holds nothing and takes @limit mappings at most: a session begins, or begins anew. The
 * plan gives it everything that is plugged. Refused (code ENOSPC): a limit below the number of
 * blocks.
 */
struct error *vhost_user_memory_begin(struct vhost_user_memory *memory, uint32_t limit,
				      struct vhost_user_plan *plan) MUST_CHECK;

/* A range of guest addresses, in whole units of one block. */
struct vhost_user_range {
	uint64_t guest_address, size;
};

/*
 * Unplugs @gone and plugs @come, and appends the messages for it to @plan. Ranges that already are
 * so are no change. What is held is taken to be as planned from now on. Before
 * vhost_user_memory_begin only what is plugged changes. Refused, with nothing changed: a range that
 * is in no block, or not whole units. (Code ENOMEM: the back-end must be given up.)
 */
struct error *vhost_user_memory_change(struct vhost_user_memory *memory,
				       const struct vhost_user_range *gone, size_t gone_count,
				       const struct vhost_user_range *come, size_t come_count,
				       struct vhost_user_plan *plan) MUST_CHECK;
/*
 * As vhost_user_memory_change, from a whole list of what is to be plugged: everything else of the
 * blocks with units is not. Takes time in proportion to the units there are.
 */
struct error *vhost_user_memory_set(struct vhost_user_memory *memory,
				    const struct vhost_user_range *plugged, size_t count,
				    struct vhost_user_plan *plan) MUST_CHECK;

/*
 * Removes mappings that nothing plugged is in and no ring uses any more. @stopped: no ring is live, so
 * that mappings with excess may be replaced by exact ones.
 */
struct error *vhost_user_memory_tidy(struct vhost_user_memory *memory, bool stopped,
				     struct vhost_user_plan *plan) MUST_CHECK;

/* The back-end has refused the addition of @region, which is then not held. */
void vhost_user_memory_refused(struct vhost_user_memory *memory,
			       const struct vhost_user_region *region);

/* Ring @ring uses these three ranges until vhost_user_memory_unpin; replaces what it used before. */
void vhost_user_memory_pin(struct vhost_user_memory *memory, uint32_t ring,
			   const struct vhost_user_range ranges[3]);
void vhost_user_memory_unpin(struct vhost_user_memory *memory, uint32_t ring);

/* The user address of a guest range that is wholly plugged and in one block; false: it is not. */
bool vhost_user_memory_user_address(const struct vhost_user_memory *memory, uint64_t guest_address,
				    uint64_t size, uint64_t *user_address);

/* Mappings that the back-end holds, and how many it may. */
uint32_t vhost_user_memory_held(const struct vhost_user_memory *memory);
uint32_t vhost_user_memory_limit(const struct vhost_user_memory *memory);
/* Bytes that the back-end has mapped although they are not plugged. */
uint64_t vhost_user_memory_excess(const struct vhost_user_memory *memory);

struct vhost_user_cursor {
	uint32_t block, cell, index;
};
/* The mappings held, in no particular order, from a zeroed cursor on; false: there are no more. */
bool vhost_user_memory_next(const struct vhost_user_memory *memory,
			    struct vhost_user_cursor *cursor, struct vhost_user_change *mapping);

#endif
