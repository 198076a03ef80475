/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest memory map: which RAM block answers at which guest physical address, and which parts of
 * it are plugged. Every access of device code to guest memory goes through memory_access below;
 * there is no other arithmetic on guest addresses.
 *
 * Regions are added before the guest runs and stay. What changes while it runs is which units of an
 * elastic region are plugged. A change is a transaction: listeners (KVM's slots, later vhost-user
 * back-ends, VFIO, RDMA) are asked first and may refuse; nothing has changed then.
 *
 * Readers never block. A device brackets its use of guest memory with memory_read_begin and
 * memory_read_end (a "read section", as in SRCU); spans stay valid inside the section even if the
 * range is unplugged meanwhile, because the unplugging side waits for all sections that began
 * earlier to end before it gives the memory back. A section may end on another thread than it began
 * on, so an asynchronous disk request keeps its own open until it completes.
 */
#ifndef GODWIT_MEMORY_MEMORY_MAP_H
#define GODWIT_MEMORY_MEMORY_MAP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "memory/ram_block.h"

struct memory_map;
struct dirty_log;

#define MEMORY_LISTENERS_MAX 64

/* One contiguous range of guest physical addresses backed by one RAM block. */
struct memory_region {
	uint64_t address;	 /* guest physical, bytes */
	uint64_t size;		 /* bytes */
	struct ram_block *block; /* not owned */
	uint64_t block_offset;	 /* bytes into the block */
	uint64_t unit; /* size of a plug unit in bytes, a power of two; 0: always plugged */
	/*
	 * One bit per unit, set when plugged. Written only by transactions; readers inside a read
	 * section load its words atomically. NULL when unit is 0.
	 */
	uint64_t *plugged;
	struct memory_region *next; /* ascending address */
	/* One slot per listener, in order of registration. */
	void *listener_data[MEMORY_LISTENERS_MAX];
};

/* A place in guest memory that device code may touch: wholly inside one region and plugged. */
struct memory_span {
	uint8_t *host;
	size_t size; /* bytes */
};

/* Follows the map. Called with the map's transaction lock held, never from a read section. */
struct memory_listener {
	/* A region was added; an always-plugged one must be made usable now. */
	struct error *(*region_add)(struct memory_listener *listener, struct memory_region *region);
	void (*region_remove)(struct memory_listener *listener, struct memory_region *region);
	/*
	 * [offset, offset + size) of @region, whole units, is about to be plugged: make it usable.
	 * 0, or -EBUSY when a budget does not allow it, with nothing changed.
	 */
	int (*plug)(struct memory_listener *listener, struct memory_region *region, uint64_t offset,
		    uint64_t size);
	/*
	 * The range, all of it plugged, is about to be unplugged: after this returns 0 nobody
	 * behind the listener can reach it. -EBUSY when a budget does not allow it, with nothing
	 * changed.
	 */
	int (*unplug)(struct memory_listener *listener, struct memory_region *region,
		      uint64_t offset, uint64_t size);
	/*
	 * It gives others the descriptors of blocks, so that they may reach what is not plugged. Set
	 * before it is added.
	 */
	bool hands_out;
	struct memory_listener *next;
	int index; /* into memory_region.listener_data */
};

struct error *memory_map_create(struct memory_map **map) MUST_CHECK;
void memory_map_destroy(struct memory_map *map);
DEFINE_CLEANUP(memory_map, struct memory_map *, memory_map_destroy)
#define AUTO_MEMORY_MAP AUTO(cleanup_memory_map)

/* Registers @listener, which the caller owns, and tells it of all regions. At most
 * MEMORY_LISTENERS_MAX in the life of the map. */
struct error *memory_map_add_listener(struct memory_map *map,
				      struct memory_listener *listener) MUST_CHECK;
void memory_map_remove_listener(struct memory_map *map, struct memory_listener *listener);

/*
 * Adds [address, address + size) backed by @block from @block_offset. @unit 0: always plugged;
 * otherwise an elastic region, wholly unplugged at first. Overlap with another region is an error.
 * Only while no device and no vCPU runs.
 */
struct error *memory_map_add(struct memory_map *map, uint64_t address, uint64_t size,
			     struct ram_block *block, uint64_t block_offset, uint64_t unit,
			     struct memory_region **region) MUST_CHECK;
struct memory_region *memory_map_first(const struct memory_map *map);
/* The region that holds @address, or NULL. */
struct memory_region *memory_map_find(const struct memory_map *map, uint64_t address);

/*
 * Plugs [offset, offset + size) of @region, whole units of which none is plugged: commits host
 * memory, then tells the listeners, then marks it. 0, or -EBUSY when the host or a listener has no
 * room, with nothing changed. Blocks; for a thread that may wait.
 */
int memory_region_plug(struct memory_map *map, struct memory_region *region, uint64_t offset,
		       uint64_t size) MUST_CHECK;
/*
 * Unplugs whole units, all of them plugged: marks, waits for read sections that began before, tells
 * the listeners, gives the memory back. 0, or -EBUSY when a listener or a device that still uses
 * the range (for longer than five seconds) does not allow it, with nothing changed.
 */
int memory_region_unplug(struct memory_map *map, struct memory_region *region, uint64_t offset,
			 uint64_t size) MUST_CHECK;
/*
 * Gives back what other processes have filled of unplugged memory, if a listener has handed it out: adds the
 * bytes to *@found. False: memory is being plugged or unplugged right now; come again. Any thread that
 * is in no transaction.
 */
bool memory_map_reclaim(struct memory_map *map, uint64_t *found) MUST_CHECK;
/* Whether a listener has handed out blocks. */
bool memory_map_handed_out(const struct memory_map *map);
/* Whether all (any) units of the range are plugged. The range is inside the region; need not be
 * aligned. */
bool memory_region_all_plugged(const struct memory_region *region, uint64_t offset, uint64_t size);
bool memory_region_any_plugged(const struct memory_region *region, uint64_t offset, uint64_t size);
/* Bytes plugged in the whole region. */
uint64_t memory_region_plugged_size(const struct memory_region *region);

/* Opens a read section and returns the token to close it with. Any thread; sections may nest. */
int memory_read_begin(struct memory_map *map);
/* Closes a section, on any thread. */
void memory_read_end(struct memory_map *map, int token);

enum memory_access_mode { MEMORY_READ, MEMORY_WRITE };

/*
 * The accessor. Resolves [address, address + size), @size > 0, to host memory: true and *@span if
 * all of it lies in one region and is plugged; false otherwise, and nothing may be touched. Only
 * inside a read section; the span is valid until the section ends. MEMORY_WRITE says that it will
 * be written; who does so calls memory_written afterwards, before the section ends.
 */
bool memory_access(struct memory_map *map, uint64_t address, uint64_t size,
		   enum memory_access_mode mode, struct memory_span *span) MUST_CHECK;
/*
 * Copies with their own read section and across region boundaries; false (and possibly a partial
 * copy) if a byte is not plugged RAM.
 */
bool memory_read(struct memory_map *map, uint64_t address, void *buffer, uint64_t size) MUST_CHECK;
bool memory_write(struct memory_map *map, uint64_t address, const void *buffer,
		  uint64_t size) MUST_CHECK;
/*
 * Copies out of and into what may be partly absent: absent bytes read as zeros and ignore writes.
 * For emulating a guest's own accesses while a slot is being changed. Returns false if the range
 * touches no region.
 */
bool memory_read_or_zero(struct memory_map *map, uint64_t address, void *buffer, uint64_t size);
bool memory_write_or_drop(struct memory_map *map, uint64_t address, const void *buffer,
			  uint64_t size);

/*
 * [host, host + size) of guest memory, found with memory_access, has been written. While writes are
 * logged (dirty_log.h) this marks its pages; otherwise it costs a branch. Any thread. The functions
 * that copy do this themselves.
 */
void memory_written(struct memory_map *map, const void *host, uint64_t size);
/* Whether memory_written does anything, for who would have to work out what was written. As with
 * it, after the write. */
bool memory_logs_writes(const struct memory_map *map);
/* The map's log. */
struct dirty_log *memory_map_dirty_log(const struct memory_map *map);

#endif
