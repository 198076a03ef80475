/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Private to slots.c, which makes and changes the slots, and dirty_slots.c, which sees what the guest
 * writes through them.
 */
#ifndef GODWIT_KVM_SLOTS_PRIVATE_H
#define GODWIT_KVM_SLOTS_PRIVATE_H

#include <pthread.h>

#include "base/log.h"
#include "kvm/slots.h"
#include "memory/dirty_log.h"

/*
 * What dirty_slots.c knows of the pages of a region while writes are logged; both bitmaps are NULL
 * otherwise.
 */
struct dirty_region {
	/* Written, as slots that are gone and the dirty rings said, and not yet collected. */
	uint64_t *kept;
	/* Collected from KVM's bitmaps, in which they are still set. */
	uint64_t *pending;
};

/* Which slot has a number; for entries of dirty rings. */
struct slot_place {
	struct region_slots *own; /* NULL: none that is plugged */
	uint64_t offset, size;
};

/* The log of writes, as one of its sources. */
struct dirty_slots {
	struct dirty_source source; /* first: sources are cast back */
	bool logging;		    /* slots of plugged memory have KVM_MEM_LOG_DIRTY_PAGES */
	bool manual;		   /* KVM_CLEAR_DIRTY_LOG takes marks away, not KVM_GET_DIRTY_LOG */
	bool initially_set;	   /* KVM's bitmaps start with all bits set */
	bool lost;		   /* marks cannot be had; nothing that is collected is complete */
	uint64_t *scratch;	   /* for the bitmap of the largest slot there can be */
	struct slot_place *places; /* by number, with dirty rings; else NULL */
};

/* One KVM slot of a region. */
struct slot {
	uint64_t offset; /* bytes into the region */
	uint64_t size;
	uint32_t id;
	bool zero; /* a read-only window of zeros, else plugged memory */
};

/* The slots of one region, ascending and disjoint. */
struct region_slots {
	struct memory_region *region;
	struct slot *slots;
	uint32_t count, capacity;
	uint64_t reads, writes; /* attempts on unplugged memory, atomic */
	struct dirty_region dirty;
	struct rate_limit reports;
};

struct kvm_slots {
	struct memory_listener listener; /* first: listeners are cast back */
	struct kvm_vm *vm;
	struct memory_map *map;
	struct kvm_vcpus *vcpus;
	void (*on_attempt)(void *context, struct memory_region *region, uint64_t address,
			   bool write);
	void *attempt_context;

	pthread_mutex_t lock; /* guards everything below */
	uint64_t *ids;	      /* slot numbers in use */
	uint32_t limit;
	uint32_t used_plugged, used_zero;
	uint8_t *zeros; /* the shared range, mapped with the first window */
	uint64_t changes;
	uint64_t merges, refused, emulation_failures;
	struct dirty_slots dirty;
};

/* The index of the first slot that ends after @offset. */
uint32_t kvm_slots_first_after(const struct region_slots *own, uint64_t offset);
/* Tells KVM of @slot again, which differs in whether writes to it are logged. 0 or -errno. */
int kvm_slots_update(struct kvm_slots *slots, const struct memory_region *region,
		     const struct slot *slot);

static inline struct region_slots *slots_of(const struct kvm_slots *slots,
					    const struct memory_region *region)
{
	return region->listener_data[slots->listener.index];
}

#endif
