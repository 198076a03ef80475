/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a guest's processor writes is in the log, whatever happens to KVM's slots meanwhile; with
 * bitmaps and with dirty rings. On the real KVM of whatever machine this is: the guest asks a port
 * for addresses and writes to them. Skipped where there is none, or has none of the two.
 */
#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "cmocka_prelude.h"
#include "kvm/cpuid.h"
#include "kvm/dirty_ring.h"
#include "kvm/slots.h"
#include "memory/dirty_log.h"

#define PAGE	KIB(4)
#define BOOT	MIB(16)
#define ELASTIC MIB(64)
#define UNIT	MIB(2)
#define UNITS	16
#define CODE	0x1000
#define GDT	0x2000
#define PORT	0x500
#define ENTRIES 2048 /* of a ring */

struct world {
	struct kvm_vm *vm;
	struct memory_map *map;
	struct kvm_slots *slots;
	struct kvm_vcpus *vcpus;
	struct ram_block *boot, *elastic;
	struct memory_region *region;
	struct dirty_log *log;
	uint64_t *pages;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint32_t address; /* for the guest; 0: none */
	bool asked;	  /* the guest waits for one, so what it was to write is written */
	bool quitting;
};

/* Without rings unless the test's initial state says so. */
static bool with_rings = true;

static const uint8_t guest_code[] = {
    0xba, PORT & 0xff, PORT >> 8, 0, 0, /* mov edx, PORT */
    0xed,				/* again: in eax, dx */
    0x89, 0x00,				/* mov [eax], eax */
    0xeb, 0xfb,				/* jmp again */
};

/* On the vCPU's thread: the guest asks for an address. */
static void give_address(void *context, uint64_t offset, void *data, uint32_t size)
{
	struct world *world = context;
	uint32_t address;

	pthread_mutex_lock(&world->lock);
	world->asked = true;
	pthread_cond_broadcast(&world->changed);
	while (!world->address && !world->quitting)
		pthread_cond_wait(&world->changed, &world->lock);
	address = world->address ?: 0x3000;
	world->address = 0;
	pthread_mutex_unlock(&world->lock);
	memcpy(data, &address, MIN(size, (uint32_t)sizeof(address)));
}

static const struct io_handler port = {.read = give_address};

static struct error *make_cpuid(void *context, uint32_t index, struct kvm_cpuid2 **cpuid)
{
	const struct kvm_cpu_topology topology = kvm_cpu_topology_make(1, 1);

	return kvm_cpuid_build(((struct world *)context)->vm, index, &topology, NULL, cpuid);
}

static void on_event(void *context, enum kvm_event event, const char *detail)
{
	fprintf(stderr, "the guest stopped: %s\n", detail);
}

static void start_guest(struct world *world)
{
	struct kvm_vcpus_options options = {.count = 1,
					    .absent = &kvm_slots_absent_ops,
					    .absent_context = world->slots,
					    .event = on_event,
					    .cpuid = make_cpuid,
					    .cpuid_context = world};
	struct kvm_boot_state boot = {
	    .entry = CODE, .stack = 0x8000, .gdt = GDT, .gdt_limit = 4 * 8 - 1};
	uint8_t gdt[4 * 8] = {0};

	put_le64(gdt + 16, 0x00cf9b000000ffffULL);
	put_le64(gdt + 24, 0x00cf93000000ffffULL);
	assert_true(memory_write(world->map, GDT, gdt, sizeof(gdt)));
	assert_true(memory_write(world->map, CODE, guest_code, sizeof(guest_code)));
	assert_no_error(io_bus_add(world->vm->pio, PORT, 4, &port, world, "addresses"));
	assert_no_error(kvm_vcpus_create(world->vm, &options, &world->vcpus));
	kvm_slots_set_vcpus(world->slots, world->vcpus);
	assert_no_error(kvm_vcpus_reset(world->vcpus, &boot));
	kvm_vcpus_resume(world->vcpus);
}

static struct world *create_limited(bool rings, uint32_t slots_limit)
{
	struct ram_backing_options options = {.backing = RAM_BACKING_MEMFD, .host_node = -1};
	struct world *world = calloc(1, sizeof(*world));
	struct memory_region *region;
	struct error *error;

	assert_non_null(world);
	error = kvm_vm_create(false, &world->vm);
	if (!error && rings)
		error = kvm_vm_enable_dirty_rings(world->vm, ENTRIES);
	if (error) {
		print_message("%s\n", error_message(error));
		error_free(error);
		kvm_vm_destroy(world->vm);
		free(world);
		skip();
		return NULL;
	}
	pthread_mutex_init(&world->lock, NULL);
	pthread_cond_init(&world->changed, NULL);
	assert_no_error(memory_map_create(&world->map));
	assert_no_error(kvm_slots_create(world->vm, world->map, slots_limit, &world->slots));
	assert_no_error(ram_block_create("boot", &options, BOOT, &world->boot));
	assert_no_error(ram_block_create("elastic", &options, UNITS * UNIT, &world->elastic));
	assert_no_error(memory_map_add(world->map, 0, BOOT, world->boot, 0, 0, &region));
	assert_no_error(memory_map_add(world->map, ELASTIC, UNITS * UNIT, world->elastic, 0, UNIT,
				       &world->region));
	world->log = memory_map_dirty_log(world->map);
	world->pages = bitmap_create(UNITS * UNIT / PAGE);
	start_guest(world);
	return world;
}

static struct world *create(void **state)
{
	return create_limited(*state && *(bool *)*state, 0);
}

static void destroy(struct world *world)
{
	pthread_mutex_lock(&world->lock);
	world->quitting = true;
	pthread_cond_broadcast(&world->changed);
	pthread_mutex_unlock(&world->lock);
	kvm_slots_set_vcpus(world->slots, NULL);
	kvm_vcpus_destroy(world->vcpus);
	kvm_slots_destroy(world->slots);
	kvm_vm_destroy(world->vm);
	memory_map_destroy(world->map);
	ram_block_destroy(world->boot);
	ram_block_destroy(world->elastic);
	free(world->pages);
	free(world);
}

/* The guest writes to @address; returns when it has. */
static void guest_writes(struct world *world, uint64_t address)
{
	pthread_mutex_lock(&world->lock);
	while (!world->asked)
		pthread_cond_wait(&world->changed, &world->lock);
	world->address = (uint32_t)address;
	world->asked = false;
	pthread_cond_broadcast(&world->changed);
	while (!world->asked)
		pthread_cond_wait(&world->changed, &world->lock);
	pthread_mutex_unlock(&world->lock);
}

static void plug(struct world *world, uint64_t first, uint64_t count)
{
	assert_int_equal(memory_region_plug(world->map, world->region, first * UNIT, count * UNIT),
			 0);
}

static void unplug(struct world *world, uint64_t first, uint64_t count)
{
	assert_int_equal(
	    memory_region_unplug(world->map, world->region, first * UNIT, count * UNIT), 0);
}

static uint64_t unit_address(uint64_t unit, uint64_t page)
{
	return ELASTIC + unit * UNIT + page * PAGE;
}

/* Collects afresh, without asking for the pages to be watched again. */
static void look(struct world *world, const struct ram_block *block)
{
	memset(world->pages, 0, UNITS * UNIT / PAGE / 8);
	assert_no_error(dirty_log_collect(world->log, block, world->pages));
}

static void before_copy(struct world *world, const struct ram_block *block)
{
	assert_no_error(dirty_log_before_copy(world->log, block, 0, block->size / PAGE));
}

static void collect(struct world *world, const struct ram_block *block)
{
	look(world, block);
	before_copy(world, block);
}

static void start(struct world *world)
{
	assert_no_error(dirty_log_start(world->log));
	collect(world, world->boot);
	collect(world, world->elastic);
}

/* What was collected of the elastic block is just this: @count pages, in units and pages. */
static void assert_pages(struct world *world, size_t count, const uint64_t pages[][2])
{
	assert_int_equal(bitmap_count_range(world->pages, 0, UNITS * UNIT / PAGE), count);
	for (size_t i = 0; i < count; i++)
		assert_true(bitmap_test(world->pages, pages[i][0] * UNIT / PAGE + pages[i][1]));
}

static void the_guests_writes_are_collected(void **state)
{
	struct world *world = create(state);

	plug(world, 0, 4);
	start(world);
	guest_writes(world, unit_address(0, 0));
	guest_writes(world, unit_address(1, 77));
	guest_writes(world, unit_address(3, 511) + 8);
	guest_writes(world, unit_address(3, 511) + 16);
	guest_writes(world, MIB(8));
	collect(world, world->elastic);
	assert_pages(world, 3, (const uint64_t[][2]){{0, 0}, {1, 77}, {3, 511}});
	collect(world, world->boot);
	assert_true(bitmap_test(world->pages, MIB(8) / PAGE));
	collect(world, world->elastic);
	assert_pages(world, 0, NULL);
	guest_writes(world, unit_address(1, 77));
	collect(world, world->elastic);
	assert_pages(world, 1, (const uint64_t[][2]){{1, 77}});
	destroy(world);
}

static void at_the_start_everything_is_written(void **state)
{
	struct world *world = create(state);

	plug(world, 2, 3);
	assert_no_error(dirty_log_start(world->log));
	look(world, world->boot);
	assert_int_equal(bitmap_count_range(world->pages, 0, BOOT / PAGE), BOOT / PAGE);
	look(world, world->elastic);
	assert_int_equal(bitmap_count_range(world->pages, 0, UNITS * UNIT / PAGE), 3 * UNIT / PAGE);
	assert_true(bitmap_all_set(world->pages, 2 * UNIT / PAGE, 3 * UNIT / PAGE));
	destroy(world);
}

/* The range that is asked for holds a page that nobody has collected. */
static void a_write_after_the_collection_is_kept(void **state)
{
	struct world *world = create(state);

	plug(world, 0, 4);
	start(world);
	guest_writes(world, unit_address(0, 1));
	look(world, world->elastic);
	guest_writes(world, unit_address(0, 2));
	guest_writes(world, unit_address(2, 65));
	before_copy(world, world->elastic);
	collect(world, world->elastic);
	assert_pages(world, 2, (const uint64_t[][2]){{0, 2}, {2, 65}});
	destroy(world);
}

static void a_write_after_the_copy_began_is_seen(void **state)
{
	struct world *world = create(state);

	plug(world, 0, 4);
	start(world);
	guest_writes(world, unit_address(0, 1));
	collect(world, world->elastic);
	guest_writes(world, unit_address(0, 1));
	collect(world, world->elastic);
	assert_pages(world, 1, (const uint64_t[][2]){{0, 1}});
	destroy(world);
}

static void only_what_is_asked_for_is_watched_again(void **state)
{
	struct world *world = create(state);
	uint64_t page = UNIT / PAGE + 100;

	plug(world, 1, 2);
	start(world);
	guest_writes(world, unit_address(1, 99));
	guest_writes(world, unit_address(1, 100));
	guest_writes(world, unit_address(1, 101));
	look(world, world->elastic);
	assert_no_error(dirty_log_before_copy(world->log, world->elastic, page, 1));
	collect(world, world->elastic);
	if (world->vm->dirty_ring_entries) /* watches at once */
		assert_pages(world, 0, NULL);
	else
		assert_pages(world, 2, (const uint64_t[][2]){{1, 99}, {1, 101}});
	collect(world, world->elastic);
	assert_pages(world, 0, NULL);
	destroy(world);
}

static void a_cut_of_a_slot_loses_no_mark_and_adds_none(void **state)
{
	struct world *world = create(state);

	plug(world, 0, 8);
	start(world);
	guest_writes(world, unit_address(0, 3));
	guest_writes(world, unit_address(2, 4));
	guest_writes(world, unit_address(7, 5));
	unplug(world, 2, 1);
	guest_writes(world, unit_address(1, 6));
	unplug(world, 5, 1);
	guest_writes(world, unit_address(6, 7));
	collect(world, world->elastic);
	assert_pages(world, 4, (const uint64_t[][2]){{0, 3}, {7, 5}, {1, 6}, {6, 7}});
	guest_writes(world, unit_address(0, 3));
	guest_writes(world, unit_address(7, 9));
	collect(world, world->elastic);
	assert_pages(world, 2, (const uint64_t[][2]){{0, 3}, {7, 9}});
	destroy(world);
}

/* Pages that were collected and wait to be copied are known: a cut does not report them again. */
static void a_cut_reports_nothing_twice(void **state)
{
	struct world *world = create(state);

	plug(world, 0, 8);
	start(world);
	guest_writes(world, unit_address(0, 3));
	look(world, world->elastic);
	guest_writes(world, unit_address(1, 3));
	unplug(world, 4, 1);
	before_copy(world, world->elastic);
	collect(world, world->elastic);
	assert_pages(world, 1, (const uint64_t[][2]){{1, 3}});
	destroy(world);
}

static void a_merge_of_slots_loses_no_mark_and_adds_none(void **state)
{
	struct world *world = create_limited(*state && *(bool *)*state, 9);
	struct kvm_slots_statistics statistics;

	for (uint64_t unit = 0; unit < 8; unit++)
		plug(world, unit, 1);
	start(world);
	guest_writes(world, unit_address(0, 3));
	guest_writes(world, unit_address(7, 5));
	plug(world, 12, 1); /* room for it only if others are joined */
	kvm_slots_statistics(world->slots, &statistics);
	assert_true(statistics.merges > 0);
	guest_writes(world, unit_address(6, 7));
	collect(world, world->elastic);
	assert_true(bitmap_all_set(world->pages, 12 * UNIT / PAGE, UNIT / PAGE));
	bitmap_clear_range(world->pages, 12 * UNIT / PAGE, UNIT / PAGE);
	assert_pages(world, 3, (const uint64_t[][2]){{0, 3}, {7, 5}, {6, 7}});
	destroy(world);
}

static void memory_that_comes_while_logging_is_logged(void **state)
{
	struct world *world = create(state);

	start(world);
	plug(world, 4, 2);
	collect(world, world->elastic);
	assert_int_equal(bitmap_count_range(world->pages, 0, UNITS * UNIT / PAGE), 2 * UNIT / PAGE);
	guest_writes(world, unit_address(5, 1));
	collect(world, world->elastic);
	assert_pages(world, 1, (const uint64_t[][2]){{5, 1}});
	destroy(world);
}

static void memory_that_goes_and_comes_again_is_reported(void **state)
{
	struct world *world = create(state);

	plug(world, 0, 2);
	start(world);
	guest_writes(world, unit_address(0, 1));
	look(world, world->elastic);
	unplug(world, 0, 2);
	look(world, world->elastic);
	assert_pages(world, 0, NULL);
	plug(world, 1, 1);
	before_copy(world, world->elastic);
	collect(world, world->elastic);
	assert_int_equal(bitmap_count_range(world->pages, 0, UNITS * UNIT / PAGE), UNIT / PAGE);
	guest_writes(world, unit_address(1, 9));
	collect(world, world->elastic);
	assert_pages(world, 1, (const uint64_t[][2]){{1, 9}});
	destroy(world);
}

static void it_can_be_started_again(void **state)
{
	struct world *world = create(state);

	plug(world, 0, 2);
	for (uint64_t page = 1; page < 4; page++) {
		start(world);
		guest_writes(world, unit_address(1, page));
		collect(world, world->elastic);
		assert_pages(world, 1, (const uint64_t[][2]){{1, page}});
		guest_writes(world, unit_address(0, page));
		dirty_log_stop(world->log);
		guest_writes(world, unit_address(0, 100 + page));
	}
	destroy(world);
}

static void a_guest_that_fills_its_ring_goes_on(void **state)
{
	struct world *world = create(state);
	struct kvm_vcpu_statistics before, after;
	uint64_t count = 2 * ENTRIES;

	plug(world, 0, 8);
	start(world);
	kvm_vcpus_statistics(world->vcpus, 0, &before);
	for (uint64_t page = 0; page < count; page++)
		guest_writes(world, ELASTIC + page * PAGE);
	collect(world, world->elastic);
	assert_int_equal(bitmap_count_range(world->pages, 0, UNITS * UNIT / PAGE), count);
	assert_true(bitmap_all_set(world->pages, 0, count));
	kvm_vcpus_statistics(world->vcpus, 0, &after);
	assert_true(after.dirty_pages - before.dirty_pages >= count);
	destroy(world);
}

static void a_ring_of_an_odd_size_is_refused(void **state)
{
	struct kvm_vm *vm;

	if (kvm_vm_create(false, &vm) != NULL)
		skip();
	assert_error_with(kvm_vm_enable_dirty_rings(vm, 1000), "");
	assert_int_equal(vm->dirty_ring_entries, 0);
	kvm_vm_destroy(vm);
}

#define RINGS(name)                                                                                \
	{                                                                                          \
#name " (rings)", name, NULL, NULL, &with_rings                                    \
	}
#define BOTH(name) {#name " (bitmaps)", name, NULL, NULL, NULL}, RINGS(name)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(the_guests_writes_are_collected),
	    BOTH(at_the_start_everything_is_written),
	    BOTH(a_write_after_the_collection_is_kept),
	    BOTH(a_write_after_the_copy_began_is_seen),
	    BOTH(only_what_is_asked_for_is_watched_again),
	    BOTH(a_cut_of_a_slot_loses_no_mark_and_adds_none),
	    BOTH(a_cut_reports_nothing_twice),
	    BOTH(a_merge_of_slots_loses_no_mark_and_adds_none),
	    BOTH(memory_that_comes_while_logging_is_logged),
	    BOTH(memory_that_goes_and_comes_again_is_reported),
	    BOTH(it_can_be_started_again),
	    RINGS(a_guest_that_fills_its_ring_goes_on),
	    RINGS(a_ring_of_an_odd_size_is_refused),
	};

	return cmocka_run_group_tests_name("kvm_dirty", tests, NULL, NULL);
}
