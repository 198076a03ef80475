/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * KVM as a source of the log of writes, see dirty_slots.h. Called by who copies memory and, as slots
 * change, by the threads that change them; the lock of the slots orders them. The guest controls
 * which pages it writes and, through what it plugs and unplugs, how slots are cut.
 *
 * What can fail: KVM has no memory for a bitmap. Where a slot changes that must not stop the guest's
 * request, so all of the slot counts as written; if even KVM's way of logging is in doubt, the log says
 * at the next collection that it is not complete (`lost`).
 */
#include "kvm/dirty_slots.h"

#include <inttypes.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "kvm/dirty_ring.h"
#include "kvm/slots_private.h"

/* Pages whose bits are cleared with one call, 128 MiB: it holds the lock of the guest's page tables. */
#define CLEAR_WORDS 512

static struct kvm_slots *from_source(struct dirty_source *source)
{
	return CONTAINER_OF(source, struct kvm_slots, dirty.source);
}

static bool uses_rings(const struct kvm_slots *slots)
{
	return slots->dirty.places;
}

static uint64_t pages_of(uint64_t bytes)
{
	return bytes / DIRTY_PAGE_SIZE;
}

/* 64 bits of a bitmap of @bits bits, from @first on; none beyond its end. */
static uint64_t word_at(const uint64_t *map, uint64_t bits, uint64_t first)
{
	uint64_t word = first / 64, shift = first % 64, result = 0;

	if (first < bits)
		result = map[word] >> shift;
	if (shift && (word + 1) * 64 < bits)
		result |= map[word + 1] << (64 - shift);
	if (first < bits && bits - first < 64)
		result &= (1ULL << (bits - first)) - 1;
	return result;
}

/* --- KVM's bitmaps
 * --------------------------------------------------------------------------------- */

static int set_protection(struct kvm_slots *slots, bool initially_set)
{
	struct kvm_enable_cap protect = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2};

	protect.args[0] =
	    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | (initially_set ? KVM_DIRTY_LOG_INITIALLY_SET : 0);
	return ioctl(slots->vm->vm_fd, KVM_ENABLE_CAP, &protect) < 0 ? -errno : 0;
}

static void choose_protection(struct kvm_slots *slots)
{
	int known = ioctl(slots->vm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	struct dirty_slots *dirty = &slots->dirty;

	dirty->manual = false;
	dirty->initially_set = false;
	/* Rings need no bits cleared, and all large pages write-protected from the start. */
	if (uses_rings(slots) || known <= 0 || !(known & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE))
		return;
	dirty->initially_set =
	    known & KVM_DIRTY_LOG_INITIALLY_SET && set_protection(slots, true) == 0;
	dirty->manual = dirty->initially_set || set_protection(slots, false) == 0;
}

/* Reads KVM's bitmap of a slot into `scratch`. 0 or -errno. */
static int read_bitmap(struct kvm_slots *slots, const struct slot *slot)
{
	struct kvm_dirty_log log = {.slot = slot->id, .dirty_bitmap = slots->dirty.scratch};

	return ioctl(slots->vm->vm_fd, KVM_GET_DIRTY_LOG, &log) < 0 ? -errno : 0;
}

/* Clears in KVM what is pending in [@first, @end) of the region's pages, all of it in @slot. */
static int clear_in_slot(struct kvm_slots *slots, struct region_slots *own, const struct slot *slot,
			 uint64_t first, uint64_t end)
{
	uint64_t start = pages_of(slot->offset), size = pages_of(slot->size);
	uint64_t region_pages = pages_of(own->region->size);
	uint64_t words[CLEAR_WORDS];

	for (uint64_t page = align_down(first - start, 64); start + page < end;
	     page += CLEAR_WORDS * 64) {
		uint64_t count = MIN(CLEAR_WORDS * 64ULL, size - page);
		struct kvm_clear_dirty_log clear = {.slot = slot->id,
						    .num_pages = (uint32_t)count,
						    .first_page = page,
						    .dirty_bitmap = words};
		uint64_t low = MAX(first, start + page), high = MIN(end, start + page + count);
		bool any = false;

		for (uint64_t i = 0; i < bitmap_words(count); i++) {
			uint64_t at = start + page + i * 64;

			words[i] = at < high ? word_at(own->dirty.pending, region_pages, at) : 0;
			if (at < low)
				words[i] &= low - at < 64 ? ~0ULL << (low - at) : 0;
			if (at < high && high - at < 64)
				words[i] &= (1ULL << (high - at)) - 1;
			any |= words[i];
		}
		if (any && ioctl(slots->vm->vm_fd, KVM_CLEAR_DIRTY_LOG, &clear) < 0)
			return -errno;
		bitmap_clear_range(own->dirty.pending, low, high - low);
	}
	return 0;
}

/* --- The rings
 * ------------------------------------------------------------------------------------- */

static void note_entry(struct kvm_slots *slots, const struct dirty_ring_entry *entry)
{
	const struct slot_place *place;

	if (entry->slot >= slots->limit)
		return;
	place = &slots->dirty.places[entry->slot];
	/* What a slot had that is gone went with its memory, or was taken before it went. */
	if (place->own && place->own->dirty.kept && entry->page < pages_of(place->size))
		bitmap_set_range(place->own->dirty.kept, pages_of(place->offset) + entry->page, 1);
}

/*
 * The pages fault again when KVM has reset the rings, not before. What is written until then is not
 * seen, so nobody may copy in between: the lock keeps collectors away.
 */
void dirty_slots_reap(struct kvm_slots *slots)
{
	uint32_t count = slots->vcpus && uses_rings(slots) ? kvm_vcpus_count(slots->vcpus) : 0;
	struct dirty_ring_entry entry;
	bool any = false;

	for (uint32_t i = 0; i < count; i++) {
		struct dirty_ring *ring = kvm_vcpus_dirty_ring(slots->vcpus, i);

		while (dirty_ring_take(ring, &entry)) {
			note_entry(slots, &entry);
			any = true;
		}
	}
	if (any && ioctl(slots->vm->vm_fd, KVM_RESET_DIRTY_RINGS, 0) < 0) {
		slots->dirty.lost = true;
		log_error("KVM does not take its dirty rings back: %m");
	}
}

/* --- Slots that come and go
 * ------------------------------------------------------------------------ */

void dirty_slots_before_insert(struct kvm_slots *slots)
{
	if (slots->dirty.logging && slots->dirty.initially_set && set_protection(slots, false) < 0)
		slots->dirty.lost = true;
}

void dirty_slots_after_insert(struct kvm_slots *slots, struct region_slots *own,
			      const struct slot *slot)
{
	if (slots->dirty.logging && slots->dirty.initially_set && set_protection(slots, true) < 0)
		slots->dirty.lost = true;
	if (slot && !slot->zero && uses_rings(slots))
		slots->dirty.places[slot->id] =
		    (struct slot_place){.own = own, .offset = slot->offset, .size = slot->size};
}

void dirty_slots_keep(struct kvm_slots *slots, struct region_slots *own, const struct slot *slot)
{
	uint64_t first = pages_of(slot->offset), count = pages_of(slot->size);
	uint64_t region_pages = pages_of(own->region->size);

	if (!slots->dirty.logging || slot->zero || !own->dirty.kept)
		return;
	if (uses_rings(slots)) {
		dirty_slots_reap(slots);
		return;
	}
	if (read_bitmap(slots, slot) < 0) {
		bitmap_set_range(own->dirty.kept, first, count);
		return;
	}
	/* What was collected already is known to who copies. */
	for (uint64_t i = 0; i < bitmap_words(count); i++)
		slots->dirty.scratch[i] &=
		    ~word_at(own->dirty.pending, region_pages, first + i * 64);
	bitmap_or_range(own->dirty.kept, first, slots->dirty.scratch, count);
}

void dirty_slots_after_erase(struct kvm_slots *slots, struct region_slots *own,
			     const struct slot *slot)
{
	if (slot->zero)
		return;
	if (uses_rings(slots))
		slots->dirty.places[slot->id] = (struct slot_place){0};
	if (own->dirty.pending)
		bitmap_clear_range(own->dirty.pending, pages_of(slot->offset),
				   pages_of(slot->size));
}

void dirty_slots_forget(struct region_slots *own)
{
	free(own->dirty.kept);
	free(own->dirty.pending);
	own->dirty = (struct dirty_region){0};
}

/* --- The source
 * ------------------------------------------------------------------------------------ */

/* Makes room for what is to be known of all regions. */
static struct error *make_room(struct kvm_slots *slots)
{
	uint64_t largest = 0;

	for (struct memory_region *region = memory_map_first(slots->map); region;
	     region = region->next) {
		struct region_slots *own = slots_of(slots, region);

		own->dirty.kept = bitmap_create(pages_of(region->size));
		own->dirty.pending = bitmap_create(pages_of(region->size));
		if (!own->dirty.kept || !own->dirty.pending)
			return error_system(ENOMEM, "log of the guest's writes");
		largest = MAX(largest, pages_of(region->size));
	}
	slots->dirty.scratch = bitmap_create(largest);
	return slots->dirty.scratch ? NULL : error_system(ENOMEM, "log of the guest's writes");
}

/* Tells KVM which slots to log: all that are plugged, or none. */
static struct error *switch_slots(struct kvm_slots *slots, bool logging)
{
	slots->dirty.logging = logging;
	for (struct memory_region *region = memory_map_first(slots->map); region;
	     region = region->next) {
		const struct region_slots *own = slots_of(slots, region);

		for (uint32_t i = 0; i < own->count; i++) {
			int failure = own->slots[i].zero
					  ? 0
					  : kvm_slots_update(slots, region, &own->slots[i]);

			if (failure)
				return error_system(-failure,
						    "KVM cannot log the guest's writes to %" PRIu64
						    " MiB at 0x%" PRIx64,
						    own->slots[i].size >> 20,
						    region->address + own->slots[i].offset);
		}
	}
	return NULL;
}

static void stop(struct kvm_slots *slots)
{
	AUTO_ERROR struct error *error = switch_slots(slots, false);

	if (error)
		log_warning("%s", error_message(error));
	dirty_slots_reap(slots);
	for (struct memory_region *region = memory_map_first(slots->map); region;
	     region = region->next)
		dirty_slots_forget(slots_of(slots, region));
	free(slots->dirty.scratch);
	slots->dirty.scratch = NULL;
}

static struct error *source_start(struct dirty_source *source)
{
	struct kvm_slots *slots = from_source(source);
	struct error *error;

	pthread_mutex_lock(&slots->lock);
	slots->dirty.lost = false;
	error = make_room(slots);
	if (!error) {
		choose_protection(slots);
		error = switch_slots(slots, true);
	}
	if (error)
		stop(slots);
	pthread_mutex_unlock(&slots->lock);
	return error;
}

static void source_stop(struct dirty_source *source)
{
	struct kvm_slots *slots = from_source(source);

	pthread_mutex_lock(&slots->lock);
	stop(slots);
	pthread_mutex_unlock(&slots->lock);
}

static int collect_slot(struct kvm_slots *slots, struct region_slots *own, const struct slot *slot,
			uint64_t *pages, uint64_t block_first)
{
	uint64_t first = pages_of(slot->offset), count = pages_of(slot->size);
	int failure = read_bitmap(slots, slot);

	if (failure)
		return failure;
	bitmap_or_range(pages, block_first + first, slots->dirty.scratch, count);
	if (slots->dirty.manual)
		bitmap_or_range(own->dirty.pending, first, slots->dirty.scratch, count);
	return 0;
}

static int collect_region(struct kvm_slots *slots, struct region_slots *own, uint64_t *pages)
{
	uint64_t first = pages_of(own->region->block_offset), count = pages_of(own->region->size);
	int failure = 0;

	if (!own->dirty.kept)
		return 0;
	for (uint32_t i = 0; i < own->count && !failure && !uses_rings(slots); i++)
		if (!own->slots[i].zero)
			failure = collect_slot(slots, own, &own->slots[i], pages, first);
	bitmap_or_range(pages, first, own->dirty.kept, count);
	bitmap_clear_range(own->dirty.kept, 0, count);
	return failure;
}

static struct error *source_collect(struct dirty_source *source, const struct ram_block *block,
				    uint64_t *pages)
{
	struct kvm_slots *slots = from_source(source);
	int failure = 0;
	bool lost;

	pthread_mutex_lock(&slots->lock);
	dirty_slots_reap(slots);
	for (struct memory_region *region = memory_map_first(slots->map); region && !failure;
	     region = region->next)
		if (region->block == block)
			failure = collect_region(slots, slots_of(slots, region), pages);
	lost = slots->dirty.lost;
	pthread_mutex_unlock(&slots->lock);
	if (!failure && lost)
		failure = -EIO;
	return failure ? error_system(-failure, "KVM does not tell what the guest wrote to '%s'",
				      block->name)
		       : NULL;
}

static int clear_in_region(struct kvm_slots *slots, struct region_slots *own, uint64_t first,
			   uint64_t end)
{
	int failure = 0;

	for (uint32_t i = kvm_slots_first_after(own, first * DIRTY_PAGE_SIZE);
	     i < own->count && !failure; i++) {
		const struct slot *slot = &own->slots[i];
		uint64_t start = pages_of(slot->offset);

		if (start >= end)
			break;
		if (!slot->zero)
			failure = clear_in_slot(slots, own, slot, MAX(first, start),
						MIN(end, start + pages_of(slot->size)));
	}
	return failure;
}

static struct error *source_before_copy(struct dirty_source *source, const struct ram_block *block,
					uint64_t first, uint64_t count)
{
	struct kvm_slots *slots = from_source(source);
	int failure = 0;

	pthread_mutex_lock(&slots->lock);
	for (struct memory_region *region = memory_map_first(slots->map);
	     region && slots->dirty.manual && !failure; region = region->next) {
		uint64_t start = pages_of(region->block_offset);
		uint64_t low = MAX(first, start);
		uint64_t high = MIN(first + count, start + pages_of(region->size));
		struct region_slots *own = slots_of(slots, region);

		if (region->block == block && low < high && own->dirty.pending)
			failure = clear_in_region(slots, own, low - start, high - start);
	}
	pthread_mutex_unlock(&slots->lock);
	return failure ? error_system(-failure, "KVM cannot watch the guest's writes to '%s' again",
				      block->name)
		       : NULL;
}

struct error *dirty_slots_init(struct kvm_slots *slots)
{
	slots->dirty.source = (struct dirty_source){.start = source_start,
						    .stop = source_stop,
						    .collect = source_collect,
						    .before_copy = source_before_copy};
	if (slots->vm->dirty_ring_entries) {
		slots->dirty.places = calloc(slots->limit, sizeof(*slots->dirty.places));
		if (!slots->dirty.places)
			return error_system(ENOMEM, "memory slots");
	}
	dirty_log_add_source(memory_map_dirty_log(slots->map), &slots->dirty.source);
	return NULL;
}

void dirty_slots_finish(struct kvm_slots *slots)
{
	dirty_log_remove_source(memory_map_dirty_log(slots->map), &slots->dirty.source);
	free(slots->dirty.places);
	slots->dirty.places = NULL;
}
