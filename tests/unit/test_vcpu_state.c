/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state of processors, interrupt controllers and clock from one virtual machine to another. On
 * the real KVM of whatever machine this is (no guest runs), skipped where there is none.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"
#include "kvm/cpu_registers.h"
#include "kvm/cpuid.h"
#include "kvm/vcpu.h"
#include "state_travel.h"

#define MSR_TSC		   0x10
#define MSR_SYSENTER_CS	   0x174
#define MSR_KERNEL_GS_BASE 0xc0000102

struct world {
	struct kvm_vm *vm;
	struct kvm_vcpus *vcpus;
};

static struct error *make_cpuid(void *context, uint32_t index, struct kvm_cpuid2 **cpuid)
{
	const struct kvm_cpu_topology topology = kvm_cpu_topology_make(2, 1);

	return kvm_cpuid_build(((struct world *)context)->vm, index, &topology, NULL, cpuid);
}

static void ignore_event(void *context, enum kvm_event event, const char *detail)
{
}

static struct world *create(void)
{
	struct world *world = calloc(1, sizeof(*world));
	struct kvm_vcpus_options options = {
	    .count = 2, .event = ignore_event, .cpuid = make_cpuid, .cpuid_context = world};
	struct error *error;

	assert_non_null(world);
	error = kvm_vm_create(false, &world->vm);
	if (error) {
		error_free(error);
		free(world);
		skip();
	}
	assert_no_error(kvm_vcpus_create(world->vm, &options, &world->vcpus));
	return world;
}

static void destroy(struct world *world)
{
	kvm_vcpus_destroy(world->vcpus);
	kvm_vm_destroy(world->vm);
	free(world);
}

static struct state *save(const struct state_part *part)
{
	struct state *state = state_save_begin(true);

	assert_no_error(state_visit(state, part));
	return state;
}

static struct error *load(const struct state_part *part, const void *bytes, size_t size)
{
	AUTO_STATE struct state *state = state_load_begin(bytes, size, part->version);

	return state_visit(state, part);
}

/* Where in @state the field @name is, the @nth of them; fails the test if it is not there. */
static size_t offset_of(const struct state *state, const char *name, size_t nth)
{
	size_t count, offset = 0;
	const struct state_field *fields = state_fields(state, &count);

	for (size_t i = 0; i < count; offset += fields[i++].size)
		if (!strcmp(fields[i].name, name) && !nth--)
			return offset;
	fail_msg("no field %s", name);
	return 0;
}

/* Where the value of the model-specific register @index is. */
static size_t offset_of_msr(const struct state *state, uint32_t index)
{
	size_t size;
	const uint8_t *bytes = state_bytes(state, &size);

	for (size_t i = 0;; i++) {
		size_t offset = offset_of(state, "msr", i);

		if (get_be32(bytes + offset) == index)
			return offset + 4;
	}
}

static uint8_t *copy_of(const struct state *state, size_t *size)
{
	const void *bytes = state_bytes(state, size);
	uint8_t *copy = malloc(*size);

	assert_non_null(copy);
	return memcpy(copy, bytes, *size);
}

static void what_was_loaded_is_saved_again(void **unused)
{
	struct kvm_boot_state boot = {.entry = 0x100000, .rbx = 0x6000, .stack = 0x9000};
	struct world *world = create(), *other = create();

	assert_no_error(kvm_vcpus_reset(world->vcpus, &boot));
	for (uint32_t cpu = 0; cpu < 2; cpu++) {
		AUTO_STATE struct state *first = NULL, *second = NULL;
		AUTO_FREE uint8_t *a = NULL, *b = NULL;
		struct state_part from, to;
		size_t a_size, b_size, tsc;

		kvm_vcpus_state_part(world->vcpus, cpu, &from);
		kvm_vcpus_state_part(other->vcpus, cpu, &to);
		first = save(&from);
		a = copy_of(first, &a_size);
		assert_no_error(load(&to, a, a_size));
		second = save(&to);
		b = copy_of(second, &b_size);
		assert_int_equal(a_size, b_size);
		tsc = offset_of_msr(first, MSR_TSC); /* it goes on, and from where it was */
		assert_true(get_be64(b + tsc) >= get_be64(a + tsc));
		memcpy(b + tsc, a + tsc, 8);
		assert_memory_equal(a, b, a_size);
	}
	destroy(world);
	destroy(other);
}

static void half_a_state_is_refused(void **unused)
{
	struct world *world = create();
	AUTO_STATE struct state *state = NULL;
	AUTO_FREE uint8_t *bytes = NULL;
	const struct state_field *fields;
	struct state_part part;
	size_t size, count, offset = 0;

	kvm_vcpus_state_part(world->vcpus, 0, &part);
	state = save(&part);
	bytes = copy_of(state, &size);
	fields = state_fields(state, &count);
	for (size_t i = 0; i < count; offset += fields[i++].size) {
		struct error *error = load(&part, bytes, offset);

		assert_non_null(error);
		error_free(error);
	}
	assert_int_equal(offset, size);
	destroy(world);
}

static void registers_are_read_without_a_processor(void **unused)
{
	struct kvm_boot_state boot = {.entry = 0x100000, .rbx = 0x6000, .stack = 0x9000};
	struct world *world = create();
	AUTO_STATE struct state *state = NULL;
	AUTO_FREE uint8_t *bytes = NULL;
	struct cpu_registers registers;
	struct state_part part;
	size_t size;

	assert_no_error(kvm_vcpus_reset(world->vcpus, &boot));
	kvm_vcpus_state_part(world->vcpus, 0, &part);
	state = save(&part);
	bytes = copy_of(state, &size);
	put_be64(bytes + offset_of_msr(state, MSR_KERNEL_GS_BASE), 0xffff888000000000);
	assert_no_error(cpu_registers_read(bytes, size, part.version, &registers));
	assert_int_equal(registers.general.rip, boot.entry);
	assert_int_equal(registers.general.rbx, boot.rbx);
	assert_int_equal(registers.system.cr3, get_be64(bytes + offset_of(state, "cr3", 0)));
	assert_int_equal(registers.system.idt.limit,
			 get_be16(bytes + offset_of(state, "idt", 0) + 8));
	assert_int_equal(registers.kernel_gs_base, 0xffff888000000000);
	for (size_t less = 1; less < size; less += 17)
		assert_error_with(cpu_registers_read(bytes, size - less, part.version, &registers),
				  "state of cpu");
	assert_error_with(cpu_registers_read(bytes, size, part.version + 1, &registers),
			  "state of version 2");
	destroy(world);
}

/* Loads a state with @value of @size bytes at @offset, expecting an error that says @text. */
static void assert_refused(struct world *world, const struct state *state, size_t offset,
			   uint64_t value, size_t size, const char *text)
{
	AUTO_FREE uint8_t *bytes = NULL;
	struct state_part part;
	uint8_t raw[8];
	size_t all;

	bytes = copy_of(state, &all);
	put_be64(raw, value);
	memcpy(bytes + offset, raw + 8 - size, size);
	kvm_vcpus_state_part(world->vcpus, 0, &part);
	assert_error_with(load(&part, bytes, all), text);
}

static void impossible_values_are_refused_by_name(void **unused)
{
	struct world *world = create();
	AUTO_STATE struct state *state = NULL;
	struct state_part part;

	kvm_vcpus_state_part(world->vcpus, 0, &part);
	state = save(&part);
	assert_refused(world, state, offset_of(state, "run state", 0), 99, 4, "run state");
	assert_refused(world, state, offset_of(state, "leaves", 0), 1000, 4, "leaves");
	assert_refused(world, state, offset_of(state, "tsc khz", 0), 1, 4, "1 kHz");
	assert_refused(world, state, offset_of(state, "cr0", 0), 1U << 31, 8, "control registers");
	assert_refused(world, state, offset_of(state, "xsave size", 0), 64, 4, "xsave size");
	assert_refused(world, state, offset_of(state, "xsave size", 0), 1U << 30, 4, "xsave size");
	assert_refused(world, state, offset_of(state, "xcrs", 0), 1U << 20, 4, "xcrs");
	assert_refused(world, state, offset_of(state, "msrs", 0), 1U << 20, 4, "msrs");
	assert_refused(world, state, offset_of(state, "nested size", 0), UINT32_MAX, 4,
		       "nested size");
	destroy(world);
}

static void a_register_that_the_host_lacks_is_refused_by_number(void **unused)
{
	struct world *world = create();
	AUTO_STATE struct state *state = NULL;
	AUTO_FREE uint8_t *bytes = NULL;
	struct state_part part;
	size_t size, offset;

	kvm_vcpus_state_part(world->vcpus, 0, &part);
	state = save(&part);
	bytes = copy_of(state, &size);
	offset = offset_of_msr(state, MSR_SYSENTER_CS);
	put_be32(bytes + offset - 4, 0xdeadbeef);
	assert_no_error(load(&part, bytes, size)); /* zero is what a register that is not has */
	put_be64(bytes + offset, 5);
	assert_error_with(load(&part, bytes, size), "0xdeadbeef");
	destroy(world);
}

static void a_feature_that_the_host_lacks_is_refused(void **unused)
{
	struct world *world = create();
	AUTO_STATE struct state *state = NULL;
	struct state_part part;
	size_t size;
	const uint8_t *bytes;

	kvm_vcpus_state_part(world->vcpus, 0, &part);
	state = save(&part);
	bytes = state_bytes(state, &size);
	for (size_t i = 0;; i++)
		if (get_be32(bytes + offset_of(state, "leaf", i)) == 1) {
			assert_refused(world, state, offset_of(state, "edx", i), UINT32_MAX, 4,
				       "CPUID leaf 0x1.0 EDX");
			break;
		}
	destroy(world);
}

static void interrupt_controllers_travel(void **unused)
{
	struct world *world = create(), *other = create();
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
	AUTO_STATE struct state *first = NULL, *second = NULL;
	AUTO_FREE uint8_t *a = NULL, *b = NULL;
	struct state_part from, to;
	size_t a_size, b_size;

	assert_int_equal(ioctl(world->vm->vm_fd, KVM_GET_IRQCHIP, &chip), 0);
	chip.chip.ioapic.redirtbl[4].bits = 0x0100000000010031; /* masked, vector 0x31 */
	chip.chip.ioapic.ioregsel = 0x18;
	assert_int_equal(ioctl(world->vm->vm_fd, KVM_SET_IRQCHIP, &chip), 0);
	kvm_vm_irqchip_part(world->vm, &from);
	kvm_vm_irqchip_part(other->vm, &to);
	first = save(&from);
	a = copy_of(first, &a_size);
	assert_no_error(load(&to, a, a_size));
	second = save(&to);
	b = copy_of(second, &b_size);
	assert_int_equal(a_size, b_size);
	assert_memory_equal(a, b, a_size);
	assert_int_equal(get_be64(b + offset_of(second, "redirection", 4)), 0x0100000000010031);
	a[offset_of(first, "ioapic address", 0)] ^= 1;
	assert_error_with(load(&to, a, a_size), "ioapic address");
	destroy(world);
	destroy(other);
}

static uint64_t clock_of(struct world *world)
{
	struct kvm_clock_data data = {0};

	assert_int_equal(ioctl(world->vm->vm_fd, KVM_GET_CLOCK, &data), 0);
	return data.clock;
}

static void the_clock_stands_still_until_it_is_started(void **unused)
{
	struct world *world = create(), *other = create();
	AUTO_STATE struct state *state = NULL;
	struct state_part from, to;
	uint64_t stopped;
	size_t size;
	const void *bytes;

	world->vm->clock_ns = 3600ULL * NS_PER_SECOND;
	world->vm->clock_stopped = true;
	kvm_vm_start_clock(world->vm);
	kvm_vm_stop_clock(world->vm);
	stopped = world->vm->clock_ns;
	assert_true(stopped >= 3600ULL * NS_PER_SECOND);
	kvm_vm_clock_part(world->vm, &from);
	kvm_vm_clock_part(other->vm, &to);
	state = save(&from);
	bytes = state_bytes(state, &size);
	assert_no_error(load(&to, bytes, size));
	usleep(1000);
	assert_int_equal(other->vm->clock_ns, stopped);
	kvm_vm_start_clock(other->vm);
	assert_false(other->vm->clock_stopped);
	assert_true(clock_of(other) >= stopped);
	assert_true(clock_of(other) < stopped + 3600ULL * NS_PER_SECOND);
	destroy(world);
	destroy(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_was_loaded_is_saved_again),
	    cmocka_unit_test(half_a_state_is_refused),
	    cmocka_unit_test(registers_are_read_without_a_processor),
	    cmocka_unit_test(impossible_values_are_refused_by_name),
	    cmocka_unit_test(a_register_that_the_host_lacks_is_refused_by_number),
	    cmocka_unit_test(a_feature_that_the_host_lacks_is_refused),
	    cmocka_unit_test(interrupt_controllers_travel),
	    cmocka_unit_test(the_clock_stands_still_until_it_is_started),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
