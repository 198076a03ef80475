/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * KVM's memory slots, kept exactly equal to what is plugged.
 *
 * The guarantee. A guest can reach host memory only through a slot. The slots of a region cover its
 * plugged units and nothing else, so there is no way for a guest to use unplugged memory, on any
 * backing, whatever instruction it executes: what has no slot exits to user space, where reads give
 * zeros and writes are dropped and counted. No host mapping is protected or split for it (no VMA
 * per block), and the host holds no page for it.
 *
 * Zero windows. A crash dump or a curious kernel reads a lot of unplugged memory, and an exit for
 * every read is slow and works only for instructions that KVM can emulate. So the first read of a
 * hole gives the hole, up to 1 GiB around it, a read-only slot over one range of zeros that all
 * such slots share. That range is anonymous, never written, and consists of the kernel's shared
 * zero page (or huge zero page): no memory, beyond at most 2 MiB of page tables. Reads then run at
 * full speed with any instruction; writes still exit. Windows are created only on demand, so that a
 * well-behaved guest never pays for removing one.
 *
 * Why not userfaultfd: a fault of a vCPU can only be answered with a page. A write to unplugged
 * memory would have to be let through to a page that is thrown away later: it sticks for a while,
 * and each costs memory meanwhile.
 *
 * Budget. KVM allows 32764 slots; 64 GiB in blocks of 2 MiB, plugged in a checkered pattern, need
 * 16384. A plug adds a slot of its own without touching its neighbours (removing a slot makes older
 * kernels drop the guest's page tables as a whole). An unplug removes slots, and cuts those that
 * reach beyond the range. When slots run short, first the zero windows go (their reads exit again),
 * then neighbouring slots are merged; if that is not enough the request is refused as "busy" before
 * anything has changed.
 *
 * Cutting and merging remove a slot that the guest is using for a moment, so no vCPU may run guest
 * code meanwhile (kvm_vcpus_hold): the guest's own page tables may lie there, and KVM's emulator
 * has no atomic operations.
 *
 * Threads: the map's transactions come from device threads, one at a time; accesses to absent
 * memory come from vCPU threads, the log of writes (dirty_slots.c) from whoever copies memory. One
 * lock orders them. vCPUs are held while the lock is held; a
 * vCPU that waits for the lock is outside the guest, so that cannot deadlock.
 */
#include "kvm/slots.h"

#include <inttypes.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "base/log.h"
#include "kvm/dirty_slots.h"
#include "kvm/slots_private.h"

#define ZERO_WINDOW_SIZE GIB(1)

/*
 * Bounds of one merge: removing a slot among 32764 takes KVM up to 190 us, during which the guest
 * stands still, and a slot must not be so large that cutting it later costs more than it saves.
 */
#define MERGE_SLOTS_MAX 64
#define MERGE_SIZE_MAX	GIB(1)

/* --- Talking to KVM
 * -------------------------------------------------------------------------------- */

static int set_slot(struct kvm_slots *slots, const struct memory_region *region,
		    const struct slot *slot, bool present)
{
	uint64_t address = region->address + slot->offset;
	uint8_t *host = slot->zero ? slots->zeros + (address & (ZERO_WINDOW_SIZE - 1))
				   : region->block->host + region->block_offset + slot->offset;
	struct kvm_userspace_memory_region argument = {
	    .slot = slot->id,
	    .flags = slot->zero		    ? KVM_MEM_READONLY
		     : slots->dirty.logging ? KVM_MEM_LOG_DIRTY_PAGES
					    : 0,
	    .guest_phys_addr = address,
	    .memory_size = present ? slot->size : 0,
	    .userspace_addr = (uintptr_t)host,
	};

	slots->changes++;
	return ioctl(slots->vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &argument) < 0 ? -errno : 0;
}

int kvm_slots_update(struct kvm_slots *slots, const struct memory_region *region,
		     const struct slot *slot)
{
	return set_slot(slots, region, slot, true);
}

/* --- The ordered list of a region's slots
 * ---------------------------------------------------------- */

static uint32_t first_after(const struct region_slots *own, uint64_t offset)
{
	uint32_t low = 0, high = own->count;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (own->slots[middle].offset + own->slots[middle].size <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

uint32_t kvm_slots_first_after(const struct region_slots *own, uint64_t offset)
{
	return first_after(own, offset);
}

/* Makes room for @more slots so that inserting cannot fail later. */
static int reserve(struct region_slots *own, uint32_t more)
{
	uint32_t capacity = own->capacity;
	struct slot *grown;

	while (capacity < own->count + more)
		capacity = capacity ? capacity * 2 : 4;
	if (capacity == own->capacity)
		return 0;
	grown = realloc(own->slots, capacity * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	own->slots = grown;
	own->capacity = capacity;
	return 0;
}

/* Creates a slot in KVM and in the list at @index. The list has room. */
static int insert(struct kvm_slots *slots, struct region_slots *own, uint32_t index,
		  uint64_t offset, uint64_t size, bool zero)
{
	struct slot slot = {.offset = offset, .size = size, .zero = zero};
	int failure;

	slot.id = (uint32_t)bitmap_next_clear(slots->ids, 0, slots->limit);
	if (slot.id == slots->limit)
		return -EBUSY;
	dirty_slots_before_insert(slots);
	failure = set_slot(slots, own->region, &slot, true);
	dirty_slots_after_insert(slots, own, failure ? NULL : &slot);
	if (failure)
		return failure;
	bitmap_set_range(slots->ids, slot.id, 1);
	memmove(&own->slots[index + 1], &own->slots[index],
		(own->count - index) * sizeof(own->slots[0]));
	own->slots[index] = slot;
	own->count++;
	*(zero ? &slots->used_zero : &slots->used_plugged) += 1;
	return 0;
}

static void erase(struct kvm_slots *slots, struct region_slots *own, uint32_t index)
{
	struct slot slot = own->slots[index];
	int failure = set_slot(slots, own->region, &slot, false);

	/* KVM has no reason to refuse; if it did, the guest could still reach the memory. */
	if (failure)
		log_error("KVM does not remove memory slot %u: %s", slot.id,
			  strerrordesc_np(-failure));
	dirty_slots_after_erase(slots, own, &slot);
	bitmap_clear_range(slots->ids, slot.id, 1);
	memmove(&own->slots[index], &own->slots[index + 1],
		(own->count - index - 1) * sizeof(own->slots[0]));
	own->count--;
	*(slot.zero ? &slots->used_zero : &slots->used_plugged) -= 1;
}

/* --- Holding the guest
 * ----------------------------------------------------------------------------- */

static void hold(struct kvm_slots *slots)
{
	if (slots->vcpus)
		kvm_vcpus_hold(slots->vcpus);
}

static void release(struct kvm_slots *slots)
{
	if (slots->vcpus)
		kvm_vcpus_release(slots->vcpus);
}

/* --- Budget
 * ---------------------------------------------------------------------------------------- */

static void drop_zero_windows(struct kvm_slots *slots)
{
	for (struct memory_region *region = memory_map_first(slots->map);
	     region && slots->used_zero; region = region->next) {
		struct region_slots *own = slots_of(slots, region);

		for (uint32_t i = own->count; i-- > 0;)
			if (own->slots[i].zero)
				erase(slots, own, i);
	}
}

/*
 * Joins the slots [first, last] of a region, which touch each other, into one. Should KVM not take
 * it, its memory has no slot until the guest touches it (see repair).
 */
static void join(struct kvm_slots *slots, struct region_slots *own, uint32_t first, uint32_t last)
{
	uint64_t offset = own->slots[first].offset;
	uint64_t size = own->slots[last].offset + own->slots[last].size - offset;
	int failure;

	hold(slots);
	for (uint32_t i = last + 1; i-- > first;) {
		dirty_slots_keep(slots, own, &own->slots[i]);
		erase(slots, own, i);
	}
	failure = insert(slots, own, first, offset, size, false);
	release(slots);
	if (failure)
		log_error("KVM does not take a merged memory slot: %s", strerrordesc_np(-failure));
	slots->merges++;
}

/* How many slots from @first on can become one: neighbours, within the limits of one merge. */
static uint32_t run_length(const struct region_slots *own, uint32_t first)
{
	uint64_t size = own->slots[first].size;
	uint32_t count = 1;

	for (uint32_t i = first; i + 1 < own->count && count < MERGE_SLOTS_MAX; i++, count++) {
		const struct slot *a = &own->slots[i], *b = &own->slots[i + 1];

		size += b->size;
		if (a->zero || b->zero || a->offset + a->size != b->offset || size > MERGE_SIZE_MAX)
			break;
	}
	return count;
}

/* Merges neighbours until @more slots are free or nothing is left to merge. */
static void merge_neighbours(struct kvm_slots *slots, uint32_t more)
{
	for (struct memory_region *region = memory_map_first(slots->map); region;
	     region = region->next) {
		struct region_slots *own = slots_of(slots, region);

		for (uint32_t first = 0; first < own->count; first++) {
			uint32_t count = run_length(own, first);

			if (count > 1)
				join(slots, own, first, first + count - 1);
			if (slots->used_plugged + more <= slots->limit)
				return;
		}
	}
}

/* Makes sure that @more slots can be created; -EBUSY, with nothing lost but speed, if they cannot.
 */
static int make_room(struct kvm_slots *slots, uint32_t more)
{
	if (slots->used_plugged + slots->used_zero + more <= slots->limit)
		return 0;
	drop_zero_windows(slots);
	if (slots->used_plugged + more <= slots->limit)
		return 0;
	merge_neighbours(slots, more);
	if (slots->used_plugged + more <= slots->limit)
		return 0;
	slots->refused++;
	return -EBUSY;
}

/* --- Following the map
 * ----------------------------------------------------------------------------- */

static struct error *on_region_add(struct memory_listener *listener, struct memory_region *region)
{
	struct kvm_slots *slots = (struct kvm_slots *)listener;
	struct region_slots *own = calloc(1, sizeof(*own));
	int failure = 0;

	if (!own)
		return error_system(ENOMEM, "memory slots");
	own->region = region;
	region->listener_data[listener->index] = own;
	pthread_mutex_lock(&slots->lock);
	if (!region->unit) {
		failure = reserve(own, 1);
		if (!failure)
			failure = insert(slots, own, 0, 0, region->size, false);
	}
	pthread_mutex_unlock(&slots->lock);
	if (failure)
		return error_system(-failure,
				    "KVM does not take %" PRIu64 " MiB of memory at 0x%" PRIx64,
				    region->size >> 20, region->address);
	return NULL;
}

static void on_region_remove(struct memory_listener *listener, struct memory_region *region)
{
	struct kvm_slots *slots = (struct kvm_slots *)listener;
	struct region_slots *own = slots_of(slots, region);

	if (!own)
		return;
	pthread_mutex_lock(&slots->lock);
	while (own->count)
		erase(slots, own, own->count - 1);
	pthread_mutex_unlock(&slots->lock);
	dirty_slots_forget(own);
	free(own->slots);
	free(own);
	region->listener_data[listener->index] = NULL;
}

static int on_plug(struct memory_listener *listener, struct memory_region *region, uint64_t offset,
		   uint64_t size)
{
	struct kvm_slots *slots = (struct kvm_slots *)listener;
	struct region_slots *own = slots_of(slots, region);
	uint32_t index;
	int failure;

	pthread_mutex_lock(&slots->lock);
	/* What overlaps is unplugged, so it can only be a window of zeros. */
	for (index = first_after(own, offset);
	     index < own->count && own->slots[index].offset < offset + size;)
		erase(slots, own, index);
	failure = make_room(slots, 1);
	if (!failure)
		failure = reserve(own, 1);
	if (!failure)
		failure = insert(slots, own, first_after(own, offset), offset, size, false);
	pthread_mutex_unlock(&slots->lock);
	return failure ? -EBUSY : 0;
}

/*
 * Takes [offset, end), part of the slot at @index, out of it: what lies before and behind gets
 * slots of its own. If KVM refuses one, the slot is put back whole: the guest's memory comes first.
 */
static int cut(struct kvm_slots *slots, struct region_slots *own, uint32_t index, uint64_t offset,
	       uint64_t end)
{
	struct slot whole = own->slots[index];
	uint64_t whole_end = whole.offset + whole.size;
	bool head = whole.offset < offset, tail = end < whole_end;
	int failure = 0;

	hold(slots);
	dirty_slots_keep(slots, own, &whole);
	erase(slots, own, index);
	if (head)
		failure = insert(slots, own, index, whole.offset, offset - whole.offset, false);
	if (!failure && tail) {
		failure = insert(slots, own, index + head, end, whole_end - end, false);
		if (failure && head)
			erase(slots, own, index);
	}
	if (failure && insert(slots, own, index, whole.offset, whole.size, false))
		log_error("KVM does not take back a memory slot of %" PRIu64 " MiB",
			  whole.size >> 20);
	release(slots);
	return failure;
}

/* Whether the slot at @index, if there is one, reaches beyond [offset, end) on the given side. */
static bool sticks_out(const struct region_slots *own, uint32_t index, uint64_t offset,
		       uint64_t end)
{
	const struct slot *slot = &own->slots[index];

	return index < own->count && slot->offset < end &&
	       (slot->offset < offset || slot->offset + slot->size > end);
}

/*
 * Only a cut can fail, and only for want of memory in KVM. If the second of two fails, the memory
 * that the first took out has no slot until the guest touches it (see repair).
 */
static int remove_slots(struct kvm_slots *slots, struct region_slots *own, uint64_t offset,
			uint64_t end)
{
	uint32_t first = first_after(own, offset);
	uint32_t last = first_after(own, end - 1);
	int failure = 0;

	/* One slot with a hole in its middle becomes two; nothing else needs room. */
	if (first < own->count && own->slots[first].offset < offset &&
	    own->slots[first].offset + own->slots[first].size > end) {
		failure = make_room(slots, 1);
		first = last = first_after(own, offset);
	}
	if (!failure)
		failure = reserve(own, 1);
	if (!failure && sticks_out(own, last, offset, end))
		failure = cut(slots, own, last, MAX(offset, own->slots[last].offset), end);
	if (!failure && first != last && sticks_out(own, first, offset, end))
		failure = cut(slots, own, first, offset,
			      own->slots[first].offset + own->slots[first].size);
	if (failure)
		return failure;
	for (first = first_after(own, offset);
	     first < own->count && own->slots[first].offset < end;)
		erase(slots, own, first);
	return 0;
}

static int on_unplug(struct memory_listener *listener, struct memory_region *region,
		     uint64_t offset, uint64_t size)
{
	struct kvm_slots *slots = (struct kvm_slots *)listener;
	int failure;

	pthread_mutex_lock(&slots->lock);
	failure = remove_slots(slots, slots_of(slots, region), offset, offset + size);
	pthread_mutex_unlock(&slots->lock);
	return failure ? -EBUSY : 0;
}

/* --- Accesses to what is absent
 * -------------------------------------------------------------------- */

/* Maps the range of zeros; false when there is no address space, and reads go on exiting. */
static bool map_zeros(struct kvm_slots *slots)
{
	uint8_t *area, *start;

	if (slots->zeros)
		return true;
	area = mmap(NULL, 2 * ZERO_WINDOW_SIZE, PROT_READ,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area == MAP_FAILED)
		return false;
	start = area + (-(uintptr_t)area & (ZERO_WINDOW_SIZE - 1));
	if (start > area)
		munmap(area, (size_t)(start - area));
	if (start < area + ZERO_WINDOW_SIZE)
		munmap(start + ZERO_WINDOW_SIZE, (size_t)(area + ZERO_WINDOW_SIZE - start));
	/* With huge pages a whole window is one page table of the huge zero page. */
	madvise(start, ZERO_WINDOW_SIZE, MADV_HUGEPAGE);
	slots->zeros = start;
	return true;
}

/* Gives the hole around @offset, which no slot covers, a window of zeros. Lock held. */
static bool open_window(struct kvm_slots *slots, struct region_slots *own, uint64_t offset)
{
	const struct memory_region *region = own->region;
	uint64_t window = align_down(region->address + offset, ZERO_WINDOW_SIZE);
	uint32_t index = first_after(own, offset);
	uint64_t start = window > region->address ? window - region->address : 0;
	uint64_t end = MIN(region->size, window + ZERO_WINDOW_SIZE - region->address);

	if (index > 0)
		start = MAX(start, own->slots[index - 1].offset + own->slots[index - 1].size);
	if (index < own->count)
		end = MIN(end, own->slots[index].offset);
	if (slots->used_plugged + slots->used_zero >= slots->limit || !map_zeros(slots) ||
	    reserve(own, 1))
		return false;
	return insert(slots, own, index, start, end - start, true) == 0;
}

/* Opens windows over all holes; true if there was one to open. Lock held. */
static bool open_all_windows(struct kvm_slots *slots)
{
	bool opened = false;

	for (struct memory_region *region = memory_map_first(slots->map); region;
	     region = region->next) {
		struct region_slots *own = slots_of(slots, region);
		uint64_t offset = 0;

		while (region->unit && offset < region->size) {
			uint32_t index = first_after(own, offset);

			if (index < own->count && own->slots[index].offset <= offset) {
				offset = own->slots[index].offset + own->slots[index].size;
				continue;
			}
			if (!open_window(slots, own, offset))
				return opened;
			opened = true;
		}
	}
	return opened;
}

static bool has_slot(const struct region_slots *own, uint64_t offset)
{
	uint32_t index = first_after(own, offset);

	return index < own->count && own->slots[index].offset <= offset;
}

/*
 * The unit at @offset is plugged but lost its slot because KVM had no memory for a moment: try
 * again. The access that found out is emulated either way. Lock held.
 */
static void repair(struct kvm_slots *slots, struct region_slots *own, uint64_t offset)
{
	uint64_t unit = own->region->unit;

	offset = align_down(offset, unit ?: 1);
	if (unit && !has_slot(own, offset) &&
	    memory_region_all_plugged(own->region, offset, unit) && !reserve(own, 1) &&
	    !insert(slots, own, first_after(own, offset), offset, unit, false))
		log_warning("memory at 0x%" PRIx64 " has its slot back",
			    own->region->address + offset);
}

static void count_attempt(struct kvm_slots *slots, struct region_slots *own, uint64_t address,
			  bool write)
{
	__atomic_fetch_add(write ? &own->writes : &own->reads, 1, __ATOMIC_RELAXED);
	if (slots->on_attempt && rate_limit_pass(&own->reports))
		slots->on_attempt(slots->attempt_context, own->region, address, write);
}

static bool absent_access(void *context, uint64_t address, void *data, uint32_t size, bool write)
{
	struct kvm_slots *slots = context;
	struct memory_region *region = memory_map_find(slots->map, address);
	uint64_t offset;

	if (!region)
		return false;
	offset = address - region->address;
	if (!memory_region_any_plugged(region, offset, MIN(size, region->size - offset))) {
		count_attempt(slots, slots_of(slots, region), address, write);
		if (write)
			return true;
		memset(data, 0, size);
		pthread_mutex_lock(&slots->lock);
		if (!has_slot(slots_of(slots, region), offset))
			open_window(slots, slots_of(slots, region), offset);
		pthread_mutex_unlock(&slots->lock);
		return true;
	}
	/* Plugged, at least in part: its slot was about to come. Do what the instruction meant. */
	pthread_mutex_lock(&slots->lock);
	repair(slots, slots_of(slots, region), offset);
	pthread_mutex_unlock(&slots->lock);
	return write ? memory_write_or_drop(slots->map, address, data, size)
		     : memory_read_or_zero(slots->map, address, data, size);
}

static bool emulation_failed(void *context, uint64_t *seen)
{
	struct kvm_slots *slots = context;
	bool retry;

	pthread_mutex_lock(&slots->lock);
	slots->emulation_failures++;
	open_all_windows(slots);
	retry = slots->changes != *seen;
	*seen = slots->changes;
	pthread_mutex_unlock(&slots->lock);
	return retry;
}

static void dirty_ring_full(void *context)
{
	struct kvm_slots *slots = context;

	pthread_mutex_lock(&slots->lock);
	dirty_slots_reap(slots);
	pthread_mutex_unlock(&slots->lock);
}

const struct kvm_absent_ops kvm_slots_absent_ops = {
    .access = absent_access,
    .emulation_failed = emulation_failed,
    .dirty_ring_full = dirty_ring_full,
};

/* --- Life
 * ------------------------------------------------------------------------------------------ */

struct error *kvm_slots_create(struct kvm_vm *vm, struct memory_map *map, uint32_t slots_limit,
			       struct kvm_slots **result)
{
	struct kvm_slots *slots = calloc(1, sizeof(*slots));
	struct error *error;

	if (!slots)
		return error_system(ENOMEM, "memory slots");
	slots->listener = (struct memory_listener){.region_add = on_region_add,
						   .region_remove = on_region_remove,
						   .plug = on_plug,
						   .unplug = on_unplug};
	slots->vm = vm;
	slots->map = map;
	slots->limit = (uint32_t)vm->slots_max;
	if (slots_limit && slots_limit < slots->limit)
		slots->limit = slots_limit;
	pthread_mutex_init(&slots->lock, NULL);
	slots->ids = bitmap_create(slots->limit);
	error = slots->ids ? dirty_slots_init(slots) : error_system(ENOMEM, "memory slots");
	if (!error)
		error = memory_map_add_listener(map, &slots->listener);
	if (error) {
		dirty_slots_finish(slots);
		free(slots->ids);
		free(slots);
		return error;
	}
	*result = slots;
	return NULL;
}

void kvm_slots_destroy(struct kvm_slots *slots)
{
	if (!slots)
		return;
	dirty_slots_finish(slots);
	memory_map_remove_listener(slots->map, &slots->listener);
	if (slots->zeros)
		munmap(slots->zeros, ZERO_WINDOW_SIZE);
	pthread_mutex_destroy(&slots->lock);
	free(slots->ids);
	free(slots);
}

void kvm_slots_set_vcpus(struct kvm_slots *slots, struct kvm_vcpus *vcpus)
{
	pthread_mutex_lock(&slots->lock);
	slots->vcpus = vcpus;
	pthread_mutex_unlock(&slots->lock);
}

void kvm_slots_set_attempt_handler(struct kvm_slots *slots,
				   void (*handler)(void *context, struct memory_region *region,
						   uint64_t address, bool write),
				   void *context)
{
	slots->on_attempt = handler;
	slots->attempt_context = context;
}

void kvm_slots_statistics(struct kvm_slots *slots, struct kvm_slots_statistics *statistics)
{
	*statistics = (struct kvm_slots_statistics){0};
	pthread_mutex_lock(&slots->lock);
	statistics->slots_max = slots->limit;
	statistics->slots_plugged = slots->used_plugged;
	statistics->slots_zero = slots->used_zero;
	statistics->merges = slots->merges;
	statistics->refused = slots->refused;
	statistics->emulation_failures = slots->emulation_failures;
	pthread_mutex_unlock(&slots->lock);
	for (struct memory_region *region = memory_map_first(slots->map); region;
	     region = region->next) {
		uint64_t reads, writes;

		kvm_slots_region_attempts(slots, region, &reads, &writes);
		statistics->absent_reads += reads;
		statistics->absent_writes += writes;
	}
}

void kvm_slots_region_attempts(struct kvm_slots *slots, const struct memory_region *region,
			       uint64_t *reads, uint64_t *writes)
{
	const struct region_slots *own = slots_of(slots, region);

	*reads = __atomic_load_n(&own->reads, __ATOMIC_RELAXED);
	*writes = __atomic_load_n(&own->writes, __ATOMIC_RELAXED);
}
