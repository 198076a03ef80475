/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The planner. A change costs time in proportion to the units that change and the mappings of the
 * cells they are in, not to all that is held: blocks are at most 64, a cell is found by a shift.
 *
 * Runs on the thread of the front-end. Nothing here comes from the back-end but the limit. What can
 * fail is memory.
 */
#include "vhost_user/memory.h"

#include <inttypes.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/checked.h"

/* [start, end) in bytes from the block's beginning. */
struct mapping {
	uint64_t start, end;
};

struct cell {
	struct mapping *list; /* sorted */
	uint32_t count, capacity;
};

struct block {
	struct vhost_user_block is;
	uint64_t unit;	   /* never 0 */
	uint64_t *plugged; /* a bit a unit */
	uint64_t cell_size;
	struct cell *cells;
	uint32_t cell_count;
};

struct vhost_user_memory {
	struct block blocks[VHOST_USER_BLOCKS_MAX];
	uint32_t block_count;
	bool begun;
	uint32_t limit, held;
	uint64_t potential; /* mappings and holes: never more than the limit */
	uint64_t covered, plugged;
	struct vhost_user_range pins[VHOST_USER_RINGS_MAX][3];
	uint32_t pin_end; /* rings from here on have none */
};

/* --- Plans ------------------------------------------------------------------------------------- */

void vhost_user_plan_free(struct vhost_user_plan *plan)
{
	free(plan->list);
	*plan = (struct vhost_user_plan){0};
}

static struct vhost_user_change change_of(const struct block *block, const struct mapping *mapping,
					  bool add)
{
	const struct vhost_user_region *region = &block->is.region;

	return (struct vhost_user_change){
	    .add = add,
	    .fd = block->is.fd,
	    .region = {.guest_address = region->guest_address + mapping->start,
		       .size = mapping->end - mapping->start,
		       .user_address = region->user_address + mapping->start,
		       .offset = region->offset + mapping->start}};
}

static struct error *append(struct vhost_user_plan *plan, const struct block *block,
			    const struct mapping *mapping, bool add)
{
	if (plan->count == plan->capacity) {
		size_t capacity = plan->capacity ? 2 * plan->capacity : 8;
		struct vhost_user_change *list = reallocarray(plan->list, capacity, sizeof(*list));

		if (!list)
			return error_system(ENOMEM, "cannot plan a change of memory");
		plan->list = list;
		plan->capacity = capacity;
	}
	plan->list[plan->count++] = change_of(block, mapping, add);
	return NULL;
}

/* --- Blocks and cells -------------------------------------------------------------------------- */

struct vhost_user_memory *vhost_user_memory_create(void)
{
	return calloc(1, sizeof(struct vhost_user_memory));
}

static void free_cells(struct block *block)
{
	for (uint32_t i = 0; block->cells && i < block->cell_count; i++)
		free(block->cells[i].list);
	free(block->cells);
	block->cells = NULL;
	block->cell_count = 0;
}

void vhost_user_memory_destroy(struct vhost_user_memory *memory)
{
	if (!memory)
		return;
	for (uint32_t i = 0; i < memory->block_count; i++) {
		free_cells(&memory->blocks[i]);
		free(memory->blocks[i].plugged);
	}
	free(memory);
}

static uint64_t units_of(const struct block *block)
{
	return block->is.region.size / block->unit;
}

static struct error *check_block(const struct vhost_user_memory *memory,
				 const struct vhost_user_block *new)
{
	const struct vhost_user_region *region = &new->region;
	uint64_t end;

	if (memory->begun || memory->block_count == VHOST_USER_BLOCKS_MAX)
		return error_new(EINVAL, "memory at 0x%" PRIx64 ": %s", region->guest_address,
				 memory->begun ? "the session has begun already"
					       : "64 blocks are the most");
	if (!region->size || !checked_add(region->guest_address, region->size, &end) ||
	    !checked_add(region->user_address, region->size, &end) ||
	    !checked_add(region->offset, region->size, &end))
		return error_new(EINVAL,
				 "memory at 0x%" PRIx64 " of %#" PRIx64 " bytes is no range",
				 region->guest_address, region->size);
	if (new->unit && (!is_power_of_two(new->unit) || !is_aligned(region->size, new->unit)))
		return error_new(EINVAL, "memory at 0x%" PRIx64 " has units of %#" PRIx64 " bytes",
				 region->guest_address, new->unit);
	for (uint32_t i = 0; i < memory->block_count; i++) {
		const struct vhost_user_region *old = &memory->blocks[i].is.region;

		if (ranges_overlap(old->guest_address, old->size, region->guest_address,
				   region->size) ||
		    ranges_overlap(old->user_address, old->size, region->user_address,
				   region->size))
			return error_new(EINVAL,
					 "memory at 0x%" PRIx64 " overlaps that at 0x%" PRIx64,
					 region->guest_address, old->guest_address);
	}
	return NULL;
}

struct error *vhost_user_memory_add_block(struct vhost_user_memory *memory,
					  const struct vhost_user_block *new)
{
	struct block *block = &memory->blocks[memory->block_count];

	TRY(check_block(memory, new));
	*block = (struct block){.is = *new, .unit = new->unit ? new->unit : new->region.size};
	block->plugged = bitmap_create(units_of(block));
	if (!block->plugged)
		return error_system(ENOMEM, "memory at 0x%" PRIx64, new->region.guest_address);
	if (!new->unit) {
		bitmap_set_range(block->plugged, 0, 1);
		memory->plugged += new->region.size;
	}
	memory->block_count++;
	return NULL;
}

static uint64_t cells_of_size(const struct vhost_user_memory *memory, uint64_t size)
{
	uint64_t count = 0;

	for (uint32_t i = 0; i < memory->block_count; i++) {
		const struct block *block = &memory->blocks[i];

		if (block->is.unit) {
			uint64_t cell = MAX(size, block->unit);

			count += block->is.region.size / cell + !!(block->is.region.size % cell);
		}
	}
	return count;
}

/* The smallest cells of which there are few enough. */
static uint64_t choose_cell_size(const struct vhost_user_memory *memory)
{
	uint64_t size = 4096, fixed = 0, elastic, most;

	for (uint32_t i = 0; i < memory->block_count; i++)
		fixed += !memory->blocks[i].is.unit;
	elastic = memory->block_count - fixed;
	most = MAX(elastic, (memory->limit - fixed) / 2);
	while (cells_of_size(memory, size) > most)
		size *= 2;
	return size;
}

static struct error *lay_out(struct vhost_user_memory *memory)
{
	uint64_t size = choose_cell_size(memory);

	memory->held = 0;
	memory->covered = 0;
	memory->potential = 0;
	for (uint32_t i = 0; i < memory->block_count; i++) {
		struct block *block = &memory->blocks[i];
		uint64_t total = block->is.region.size;

		free_cells(block);
		block->cell_size = block->is.unit ? MAX(size, block->unit) : total;
		block->cells = calloc(total / block->cell_size + !!(total % block->cell_size),
				      sizeof(*block->cells));
		if (!block->cells)
			return error_system(ENOMEM, "cannot plan memory");
		block->cell_count =
		    (uint32_t)(total / block->cell_size + !!(total % block->cell_size));
		memory->potential += block->cell_count; /* each is one hole */
	}
	return NULL;
}

static uint64_t cell_start(const struct block *block, uint32_t index)
{
	return index * block->cell_size;
}

static uint64_t cell_end(const struct block *block, uint32_t index)
{
	return MIN((index + 1) * block->cell_size, block->is.region.size);
}

/* --- Mappings ---------------------------------------------------------------------------------- */

/* The hole of cell @index before its mapping number @at (or behind the last): may be empty. */
static struct mapping hole_before(const struct block *block, uint32_t index, uint32_t at)
{
	const struct cell *cell = &block->cells[index];

	return (struct mapping){at ? cell->list[at - 1].end : cell_start(block, index),
				at < cell->count ? cell->list[at].start : cell_end(block, index)};
}

static struct error *insert(struct vhost_user_memory *memory, struct block *block, uint32_t index,
			    uint32_t at, struct mapping new)
{
	struct mapping hole = hole_before(block, index, at);
	struct cell *cell = &block->cells[index];

	if (cell->count == cell->capacity) {
		uint32_t capacity = cell->capacity ? 2 * cell->capacity : 2;
		struct mapping *list = reallocarray(cell->list, capacity, sizeof(*list));

		if (!list)
			return error_system(ENOMEM, "cannot plan a change of memory");
		cell->list = list;
		cell->capacity = capacity;
	}
	memmove(cell->list + at + 1, cell->list + at, (cell->count - at) * sizeof(*cell->list));
	cell->list[at] = new;
	cell->count++;
	memory->held++;
	memory->covered += new.end - new.start;
	memory->potential += (new.start > hole.start) + (new.end < hole.end);
	return NULL;
}

static void remove_at(struct vhost_user_memory *memory, struct block *block, uint32_t index,
		      uint32_t at)
{
	struct cell *cell = &block->cells[index];
	struct mapping old = cell->list[at], hole;

	cell->count--;
	memmove(cell->list + at, cell->list + at + 1, (cell->count - at) * sizeof(*cell->list));
	hole = hole_before(block, index, at);
	memory->held--;
	memory->covered -= old.end - old.start;
	memory->potential -= (old.start > hole.start) + (old.end < hole.end);
}

/* The first mapping of the cell that ends after @offset. */
static uint32_t find_in_cell(const struct cell *cell, uint64_t offset)
{
	uint32_t low = 0, high = cell->count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (cell->list[middle].end > offset)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static bool is_pinned(const struct vhost_user_memory *memory, const struct block *block,
		      const struct mapping *mapping)
{
	for (uint32_t i = 0; i < memory->pin_end; i++) {
		for (uint32_t j = 0; j < 3; j++) {
			const struct vhost_user_range *pin = &memory->pins[i][j];

			if (ranges_overlap(pin->guest_address, pin->size,
					   block->is.region.guest_address + mapping->start,
					   mapping->end - mapping->start))
				return true;
		}
	}
	return false;
}

static uint64_t plugged_in(const struct block *block, const struct mapping *mapping)
{
	uint64_t first = mapping->start / block->unit, end = mapping->end / block->unit;

	return bitmap_count_range(block->plugged, first, end - first) * block->unit;
}

static bool has_plugged(const struct block *block, const struct mapping *mapping)
{
	uint64_t end = mapping->end / block->unit;

	return bitmap_next_set(block->plugged, mapping->start / block->unit, end) < end;
}

/* --- Covering ---------------------------------------------------------------------------------- */

/*
 * As near to @run as the limit allows, inside @hole. Both in the middle of it costs 2 of what is
 * left, an edge 1, and all of it nothing.
 */
static struct mapping fit(const struct vhost_user_memory *memory, struct mapping hole,
			  struct mapping run)
{
	uint64_t left = memory->limit - memory->potential;
	uint64_t before = run.start - hole.start, behind = hole.end - run.end;

	if (!!before + !!behind <= left)
		return run;
	if (!left)
		return hole;
	return before <= behind ? (struct mapping){hole.start, run.end}
				: (struct mapping){run.start, hole.end};
}

/* Covers what is plugged of [start, end), which is in cell @index. */
static struct error *cover_cell(struct vhost_user_memory *memory, struct block *block,
				uint32_t index, struct mapping range, struct vhost_user_plan *plan)
{
	uint64_t at = range.start;

	while (at < range.end) {
		struct cell *cell = &block->cells[index];
		uint32_t place = find_in_cell(cell, at);
		struct mapping hole, run;

		if (place < cell->count && cell->list[place].start <= at) {
			at = cell->list[place].end;
			continue;
		}
		hole = hole_before(block, index, place);
		run.end = MIN(hole.end, range.end);
		run.start =
		    bitmap_next_set(block->plugged, at / block->unit, run.end / block->unit) *
		    block->unit;
		if (run.start >= run.end) {
			at = run.end;
			continue;
		}
		run.end = bitmap_next_clear(block->plugged, run.start / block->unit,
					    hole.end / block->unit) *
			  block->unit;
		run = fit(memory, hole, run);
		TRY(append(plan, block, &run, true));
		TRY(insert(memory, block, index, place, run));
		at = run.end;
	}
	return NULL;
}

static struct error *cover(struct vhost_user_memory *memory, struct block *block,
			   struct mapping range, struct vhost_user_plan *plan)
{
	for (uint64_t i = range.start / block->cell_size; i * block->cell_size < range.end; i++) {
		struct mapping part = {MAX(range.start, i * block->cell_size),
				       MIN(range.end, (i + 1) * block->cell_size)};

		TRY(cover_cell(memory, block, (uint32_t)i, part, plan));
	}
	return NULL;
}

/* Removes mappings that touch the range and have nothing plugged any more. */
static struct error *uncover(struct vhost_user_memory *memory, struct block *block,
			     struct mapping range, struct vhost_user_plan *plan)
{
	for (uint64_t i = range.start / block->cell_size; i * block->cell_size < range.end; i++) {
		struct cell *cell = &block->cells[i];
		uint32_t at = find_in_cell(cell, range.start);

		while (at < cell->count && cell->list[at].start < range.end) {
			if (has_plugged(block, &cell->list[at]) ||
			    is_pinned(memory, block, &cell->list[at])) {
				at++;
				continue;
			}
			TRY(append(plan, block, &cell->list[at], false));
			remove_at(memory, block, (uint32_t)i, at);
		}
	}
	return NULL;
}

/* --- Changes ----------------------------------------------------------------------------------- */

static struct block *find_block(const struct vhost_user_memory *memory, uint64_t address,
				uint64_t size)
{
	for (uint32_t i = 0; i < memory->block_count; i++) {
		const struct vhost_user_region *region = &memory->blocks[i].is.region;

		if (range_contains(region->guest_address, region->size, address, size))
			return (struct block *)&memory->blocks[i];
	}
	return NULL;
}

static struct mapping offsets(const struct block *block, const struct vhost_user_range *range)
{
	uint64_t start = range->guest_address - block->is.region.guest_address;

	return (struct mapping){start, start + range->size};
}

static struct error *check_range(const struct vhost_user_memory *memory,
				 const struct vhost_user_range *range)
{
	const struct block *block = find_block(memory, range->guest_address, range->size);
	struct mapping part;

	if (!block || !block->is.unit || !range->size)
		return error_new(EINVAL,
				 "%#" PRIx64 " bytes of memory at 0x%" PRIx64
				 " are not in a block that changes",
				 range->size, range->guest_address);
	part = offsets(block, range);
	if (!is_aligned(part.start, block->unit) || !is_aligned(part.end, block->unit))
		return error_new(EINVAL,
				 "%#" PRIx64 " bytes of memory at 0x%" PRIx64
				 " are not whole units of %#" PRIx64,
				 range->size, range->guest_address, block->unit);
	return NULL;
}

static void mark(struct vhost_user_memory *memory, struct block *block, struct mapping part,
		 bool plugged)
{
	uint64_t first = part.start / block->unit, count = part.end / block->unit - first;
	uint64_t before = bitmap_count_range(block->plugged, first, count);

	if (plugged)
		bitmap_set_range(block->plugged, first, count);
	else
		bitmap_clear_range(block->plugged, first, count);
	memory->plugged -= before * block->unit;
	memory->plugged += plugged ? count * block->unit : 0;
}

/* Marks them all first: what is unplugged here and plugged there again must not be removed. */
static void mark_all(struct vhost_user_memory *memory, const struct vhost_user_range *ranges,
		     size_t count, bool plugged)
{
	for (size_t i = 0; i < count; i++) {
		struct block *block = find_block(memory, ranges[i].guest_address, ranges[i].size);

		mark(memory, block, offsets(block, &ranges[i]), plugged);
	}
}

struct error *vhost_user_memory_change(struct vhost_user_memory *memory,
				       const struct vhost_user_range *gone, size_t gone_count,
				       const struct vhost_user_range *come, size_t come_count,
				       struct vhost_user_plan *plan)
{
	for (size_t i = 0; i < gone_count; i++)
		TRY(check_range(memory, &gone[i]));
	for (size_t i = 0; i < come_count; i++)
		TRY(check_range(memory, &come[i]));
	mark_all(memory, gone, gone_count, false);
	mark_all(memory, come, come_count, true);
	if (!memory->begun)
		return NULL;
	/* Removals first: they make room. */
	for (size_t i = 0; i < gone_count; i++) {
		struct block *block = find_block(memory, gone[i].guest_address, gone[i].size);

		TRY(uncover(memory, block, offsets(block, &gone[i]), plan));
	}
	for (size_t i = 0; i < come_count; i++) {
		struct block *block = find_block(memory, come[i].guest_address, come[i].size);

		TRY(cover(memory, block, offsets(block, &come[i]), plan));
	}
	return NULL;
}

struct error *vhost_user_memory_set(struct vhost_user_memory *memory,
				    const struct vhost_user_range *plugged, size_t count,
				    struct vhost_user_plan *plan)
{
	struct vhost_user_range gone[VHOST_USER_BLOCKS_MAX];
	size_t gone_count = 0;

	for (uint32_t i = 0; i < memory->block_count; i++) {
		const struct vhost_user_block *block = &memory->blocks[i].is;

		if (block->unit)
			gone[gone_count++] = (struct vhost_user_range){block->region.guest_address,
								       block->region.size};
	}
	return vhost_user_memory_change(memory, gone, gone_count, plugged, count, plan);
}

struct error *vhost_user_memory_begin(struct vhost_user_memory *memory, uint32_t limit,
				      struct vhost_user_plan *plan)
{
	if (limit < memory->block_count)
		return error_new(ENOSPC,
				 "the back-end takes %" PRIu32
				 " pieces of memory, and the machine has %" PRIu32
				 ": it needs fewer memory devices, or a back-end that takes more",
				 limit, memory->block_count);
	memory->limit = MIN(limit, VHOST_USER_SLOTS_MAX);
	memory->begun = true;
	memset(memory->pins, 0, sizeof(memory->pins));
	memory->pin_end = 0;
	TRY(lay_out(memory));
	for (uint32_t i = 0; i < memory->block_count; i++) {
		struct block *block = &memory->blocks[i];

		TRY(cover(memory, block, (struct mapping){0, block->is.region.size}, plan));
	}
	return NULL;
}

/* Replaces mapping @at by what is plugged of it. No message if that would be the same again. */
static struct error *make_exact(struct vhost_user_memory *memory, struct block *block,
				uint32_t index, uint32_t at, struct vhost_user_plan *plan)
{
	struct mapping old = block->cells[index].list[at];
	size_t before = plan->count;
	const struct vhost_user_change *added;

	TRY(append(plan, block, &old, false));
	remove_at(memory, block, index, at);
	TRY(cover_cell(memory, block, index, old, plan));
	added = &plan->list[before + 1];
	if (plan->count == before + 2 &&
	    added->region.guest_address == plan->list[before].region.guest_address &&
	    added->region.size == plan->list[before].region.size)
		plan->count = before;
	return NULL;
}

static struct error *tidy_cell(struct vhost_user_memory *memory, struct block *block,
			       uint32_t index, struct vhost_user_plan *plan)
{
	struct cell *cell = &block->cells[index];
	uint32_t at = 0;

	while (at < cell->count) {
		struct mapping now = cell->list[at];

		if (plugged_in(block, &now) < now.end - now.start)
			TRY(make_exact(memory, block, index, at, plan));
		at = find_in_cell(cell, now.end);
	}
	return NULL;
}

struct error *vhost_user_memory_tidy(struct vhost_user_memory *memory, bool stopped,
				     struct vhost_user_plan *plan)
{
	for (uint32_t i = 0; memory->begun && i < memory->block_count; i++) {
		struct block *block = &memory->blocks[i];

		TRY(uncover(memory, block, (struct mapping){0, block->is.region.size}, plan));
		for (uint32_t j = 0; stopped && j < block->cell_count; j++)
			TRY(tidy_cell(memory, block, j, plan));
	}
	return NULL;
}

void vhost_user_memory_refused(struct vhost_user_memory *memory,
			       const struct vhost_user_region *region)
{
	struct block *block = find_block(memory, region->guest_address, region->size);
	uint64_t offset;
	uint32_t index, at;

	if (!block || !memory->begun)
		return;
	offset = region->guest_address - block->is.region.guest_address;
	index = (uint32_t)(offset / block->cell_size);
	at = find_in_cell(&block->cells[index], offset);
	if (at < block->cells[index].count && block->cells[index].list[at].start == offset)
		remove_at(memory, block, index, at);
}

/* --- Pins and questions ------------------------------------------------------------------------ */

void vhost_user_memory_pin(struct vhost_user_memory *memory, uint32_t ring,
			   const struct vhost_user_range ranges[3])
{
	if (ring >= VHOST_USER_RINGS_MAX)
		return;
	memcpy(memory->pins[ring], ranges, sizeof(memory->pins[ring]));
	memory->pin_end = MAX(memory->pin_end, ring + 1);
}

void vhost_user_memory_unpin(struct vhost_user_memory *memory, uint32_t ring)
{
	if (ring < VHOST_USER_RINGS_MAX)
		memset(memory->pins[ring], 0, sizeof(memory->pins[ring]));
}

bool vhost_user_memory_user_address(const struct vhost_user_memory *memory, uint64_t guest_address,
				    uint64_t size, uint64_t *user_address)
{
	const struct block *block = find_block(memory, guest_address, size);
	uint64_t offset, first, end;

	if (!block || !size)
		return false;
	offset = guest_address - block->is.region.guest_address;
	first = offset / block->unit;
	end = (offset + size - 1) / block->unit + 1;
	if (!bitmap_all_set(block->plugged, first, end - first))
		return false;
	*user_address = block->is.region.user_address + offset;
	return true;
}

uint32_t vhost_user_memory_held(const struct vhost_user_memory *memory)
{
	return memory->held;
}

uint32_t vhost_user_memory_limit(const struct vhost_user_memory *memory)
{
	return memory->limit;
}

uint64_t vhost_user_memory_excess(const struct vhost_user_memory *memory)
{
	return memory->begun ? memory->covered - memory->plugged : 0;
}

bool vhost_user_memory_next(const struct vhost_user_memory *memory,
			    struct vhost_user_cursor *cursor, struct vhost_user_change *mapping)
{
	for (; cursor->block < memory->block_count; cursor->block++, cursor->cell = 0) {
		const struct block *block = &memory->blocks[cursor->block];

		for (; cursor->cell < block->cell_count; cursor->cell++, cursor->index = 0) {
			const struct cell *cell = &block->cells[cursor->cell];

			if (cursor->index < cell->count) {
				*mapping = change_of(block, &cell->list[cursor->index++], true);
				return true;
			}
		}
	}
	return false;
}
