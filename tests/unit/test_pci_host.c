/* SPDX-License-Identifier: BSD-2-Clause */
/* The PCI bus: where functions are, how they are reached, where their BARs answer. */
#include "cmocka_prelude.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "machine/layout.h"
#include "machine/pci_host.h"

#define WINDOW	 GIB(8)
#define BAR_SIZE KIB(16)

struct fixture {
	struct io_bus *pio, *mmio;
	struct pci_host *host;
	struct pci_function functions[PCI_HOST_FUNCTIONS_MAX + 1];
};

static void bar_read(struct pci_function *function, int bar, uint64_t offset, void *data,
		     uint32_t size)
{
	memset(data, function->devfn, size);
}

static void bar_write(struct pci_function *function, int bar, uint64_t offset, const void *data,
		      uint32_t size)
{
}

static const struct pci_function_ops ops = {.bar_read = bar_read, .bar_write = bar_write};

static struct pci_function *add(struct fixture *f, uint32_t index)
{
	struct pci_function *function = &f->functions[index];

	pci_function_init(function, &ops, "test", 0x1af4, 0x1000, 0, 0xff0000, 0, 0);
	pci_function_add_bar(function, 0, BAR_SIZE, true, false);
	assert_no_error(pci_host_add(f->host, function));
	return function;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct pci_host_options options = {.window_start = WINDOW, .window_size = GIB(1)};

	assert_non_null(f);
	assert_no_error(io_bus_create(&f->pio));
	assert_no_error(io_bus_create(&f->mmio));
	options.pio = f->pio;
	options.mmio = f->mmio;
	assert_no_error(pci_host_create(&options, &f->host));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(f->functions); i++)
		if (f->functions[i].ops)
			pci_host_remove(f->host, &f->functions[i]);
	pci_host_destroy(f->host);
	io_bus_destroy(f->pio);
	io_bus_destroy(f->mmio);
	free(f);
	return 0;
}

static uint32_t ecam(struct fixture *f, uint32_t devfn, uint32_t offset, uint32_t size)
{
	uint8_t bytes[4] = {0};

	assert_true(io_bus_read(f->mmio, LAYOUT_ECAM_START + (devfn << 12) + offset, bytes, size));
	return get_le32(bytes);
}

static void set_ecam(struct fixture *f, uint32_t devfn, uint32_t offset, uint32_t value)
{
	uint8_t bytes[4];

	put_le32(bytes, value);
	assert_true(io_bus_write(f->mmio, LAYOUT_ECAM_START + (devfn << 12) + offset, bytes, 4));
}

static uint32_t ports(struct fixture *f, uint32_t address)
{
	uint8_t bytes[4];

	put_le32(bytes, address);
	assert_true(io_bus_write(f->pio, 0xcf8, bytes, 4));
	assert_true(io_bus_read(f->pio, 0xcfc, bytes, 4));
	return get_le32(bytes);
}

static void devices_get_slots_of_their_own(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(add(f, 0)->devfn, 1 << 3);
	assert_int_equal(add(f, 1)->devfn, 2 << 3);
	assert_int_equal(ecam(f, 2 << 3, 0, 4), 0x10001af4);
}

static void further_functions_follow_when_slots_run_out(void **state)
{
	struct fixture *f = *state;

	for (uint32_t i = 0; i < 31; i++)
		add(f, i);
	assert_int_equal(ecam(f, 1 << 3, 0x0e, 1), 0);
	assert_int_equal(add(f, 31)->devfn, 1 << 3 | 1);
	assert_int_equal(ecam(f, 1 << 3, 0x0e, 1), 0x80);
	assert_int_equal(ecam(f, 2 << 3, 0x0e, 1), 0);
	pci_host_reset(f->host);
	assert_int_equal(ecam(f, 1 << 3, 0x0e, 1), 0x80);
}

static void a_full_bus_refuses_more(void **state)
{
	struct fixture *f = *state;
	struct pci_function *more = &f->functions[PCI_HOST_FUNCTIONS_MAX];

	for (uint32_t i = 0; i < PCI_HOST_FUNCTIONS_MAX; i++)
		add(f, i);
	assert_int_equal(ecam(f, 0xff, 0, 2), 0x1af4);
	pci_function_init(more, &ops, "more", 1, 1, 0, 0, 0, 0);
	assert_error_with(pci_host_add(f->host, more), "248");
}

static void both_ways_lead_to_configuration_space(void **state)
{
	struct fixture *f = *state;

	add(f, 0);
	assert_int_equal(ports(f, 0x80000800), 0x10001af4);
	assert_int_equal(ecam(f, 8, 0, 4), 0x10001af4);
	assert_int_equal(ports(f, 0x00000800), UINT32_MAX); /* not enabled */
	assert_int_equal(ports(f, 0x80010800), UINT32_MAX); /* bus 1 */
}

static void what_is_absent_reads_as_ones(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(ecam(f, 5 << 3, 0, 4), UINT32_MAX);
	assert_int_equal(ecam(f, 5 << 3, 0, 2), 0xffff);
	assert_int_equal(ports(f, 0x80002800), UINT32_MAX);
	/* Unaligned: no configuration register. */
	add(f, 0);
	assert_int_equal(ecam(f, 1 << 3, 1, 2), 0xffff);
}

static void bars_are_placed_in_the_window_and_answer_when_enabled(void **state)
{
	struct fixture *f = *state;
	uint8_t byte;

	add(f, 0);
	add(f, 1);
	assert_int_equal(ecam(f, 2 << 3, 0x10, 4) & ~15U, (uint32_t)(WINDOW + BAR_SIZE));
	assert_int_equal(ecam(f, 2 << 3, 0x14, 4), WINDOW >> 32);
	assert_false(io_bus_read(f->mmio, WINDOW + BAR_SIZE, &byte, 1));
	set_ecam(f, 2 << 3, 4, 2);
	assert_true(io_bus_read(f->mmio, WINDOW + BAR_SIZE, &byte, 1));
	assert_int_equal(byte, 2 << 3);
	set_ecam(f, 2 << 3, 4, 0);
	assert_false(io_bus_read(f->mmio, WINDOW + BAR_SIZE, &byte, 1));
}

static void a_bar_that_moves_answers_there(void **state)
{
	struct fixture *f = *state;
	uint8_t byte;

	add(f, 0);
	set_ecam(f, 8, 4, 2);
	set_ecam(f, 8, 0x10, MIB(64));
	assert_true(io_bus_read(f->mmio, WINDOW + MIB(64), &byte, 1));
	assert_false(io_bus_read(f->mmio, WINDOW, &byte, 1));
}

static void a_bar_on_top_of_something_answers_nowhere(void **state)
{
	struct fixture *f = *state;
	uint8_t byte;

	add(f, 0);
	set_ecam(f, 8, 0x14, 0);
	set_ecam(f, 8, 0x10, LAYOUT_ECAM_START);
	set_ecam(f, 8, 4, 2);
	assert_int_equal(ecam(f, 8, 0, 4), 0x10001af4);
	/* And recovers. */
	set_ecam(f, 8, 0x10, LAYOUT_PCI32_START);
	assert_true(io_bus_read(f->mmio, LAYOUT_PCI32_START, &byte, 1));
}

static void a_reset_puts_bars_back(void **state)
{
	struct fixture *f = *state;
	uint8_t byte;

	add(f, 0);
	set_ecam(f, 8, 4, 2);
	set_ecam(f, 8, 0x10, MIB(64));
	pci_host_reset(f->host);
	assert_int_equal(ecam(f, 8, 0x10, 4) & ~15U, (uint32_t)WINDOW);
	assert_false(io_bus_read(f->mmio, WINDOW + MIB(64), &byte, 1));
	set_ecam(f, 8, 4, 2);
	assert_true(io_bus_read(f->mmio, WINDOW, &byte, 1));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(devices_get_slots_of_their_own),
	    TEST(further_functions_follow_when_slots_run_out),
	    TEST(a_full_bus_refuses_more),
	    TEST(both_ways_lead_to_configuration_space),
	    TEST(what_is_absent_reads_as_ones),
	    TEST(bars_are_placed_in_the_window_and_answer_when_enabled),
	    TEST(a_bar_that_moves_answers_there),
	    TEST(a_bar_on_top_of_something_answers_nowhere),
	    TEST(a_reset_puts_bars_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
