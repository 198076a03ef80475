/* SPDX-License-Identifier: BSD-2-Clause */
/* A PCI function's state on its way to another one like it. */
#include "cmocka_prelude.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "pci/pci_function.h"
#include "pci/pci_registers.h"
#include "state_travel.h"

#define BAR_ADDRESS 0x8000000000ULL
#define VECTORS	    3
#define TABLE	    0x1000
#define PBA	    0x2000

struct world {
	struct pci_function function;
	bool bar_enabled[PCI_BAR_COUNT];
	uint64_t bar_address[PCI_BAR_COUNT];
	bool bus_master;
	unsigned int moved, bound, messages;
	uint64_t message_address;
	uint32_t message_data;
};

static void bar_changed(void *host, struct pci_function *function, int bar, uint64_t address,
			uint64_t size, bool enabled)
{
	struct world *world = host;

	assert_int_not_equal(world->bar_enabled[bar], enabled);
	world->bar_enabled[bar] = enabled;
	world->bar_address[bar] = address;
}

static void send_msi(void *host, uint64_t address, uint32_t data)
{
	struct world *world = host;

	world->messages++;
	world->message_address = address;
	world->message_data = data;
}

static int bind_msi_fd(void *host, int fd, uint64_t address, uint32_t data, int *route)
{
	struct world *world = host;

	world->bound += *route < 0;
	world->message_address = address;
	world->message_data = data;
	*route = 1;
	return 0;
}

static void unbind_msi_fd(void *host, int fd, int route)
{
	((struct world *)host)->bound--;
}

static const struct pci_host_ops host_ops = {.bar_changed = bar_changed,
					     .send_msi = send_msi,
					     .bind_msi_fd = bind_msi_fd,
					     .unbind_msi_fd = unbind_msi_fd};

static void bar_moved(struct pci_function *function, int bar)
{
	((struct world *)function->host)->moved++;
}

static void bus_master_changed(struct pci_function *function, bool enabled)
{
	((struct world *)function->host)->bus_master = enabled;
}

static const struct pci_function_ops function_ops = {.bar_moved = bar_moved,
						     .bus_master_changed = bus_master_changed};

static void *create(void)
{
	struct world *world = calloc(1, sizeof(*world));

	assert_non_null(world);
	pci_function_init(&world->function, &function_ops, "test", 0x1af4, 0x1041, 1, 0x020000,
			  0x1af4, 0x1041);
	pci_function_add_bar(&world->function, 0, 0x4000, true, true);
	pci_function_add_bar(&world->function, 2, 0x1000, false, false);
	assert_no_error(pci_function_add_msix(&world->function, VECTORS, 0, TABLE, PBA));
	world->function.host_ops = &host_ops;
	world->function.host = world;
	return world;
}

static void destroy(void *device)
{
	struct world *world = device;

	pci_function_cleanup(&world->function);
	assert_int_equal(world->bound, 0);
	free(world);
}

static void visit(void *device, struct state *state)
{
	pci_function_state(&((struct world *)device)->function, state);
}

static const struct travel travel = {.visit = visit, .create = create, .destroy = destroy};

static void set_vector(struct world *world, uint16_t vector, uint64_t address, uint32_t data,
		       uint32_t control)
{
	uint8_t entry[16];

	put_le64(entry, address);
	put_le32(entry + 8, data);
	put_le32(entry + 12, control);
	for (uint32_t i = 0; i < sizeof(entry); i += 4)
		pci_function_bar_write(&world->function, 0, TABLE + vector * 16U + i, entry + i, 4);
}

/* What a driver makes of it: BAR 0 in place and decoding, MSI-X on, vector 1 masked and pending. */
static struct world *in_use(void)
{
	struct world *world = create();
	struct pci_function *function = &world->function;

	pci_function_set_bar_address(function, 0, BAR_ADDRESS);
	pci_function_config_write(function, PCI_COMMAND, 2,
				  PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	set_vector(world, 0, 0xfee01000, 0x4021, 0);
	set_vector(world, 1, 0xfee02000, 0x4022, 1);
	set_vector(world, 2, 0x1fee03000, 0x4023, 0);
	pci_function_config_write(function, function->msix_capability + PCI_MSIX_CONTROL, 2,
				  PCI_MSIX_CONTROL_ON);
	pci_function_msix_notify(function, 1);
	return world;
}

/* A copy of @world's state in a new one. */
static struct world *moved(struct world *world)
{
	struct world *copy = create();
	size_t size;
	uint8_t *bytes = travel_save(&travel, world, &size);

	assert_no_error(travel_load(&travel, copy, bytes, size));
	free(bytes);
	return copy;
}

static void every_field_travels(void **state)
{
	struct world *world = in_use();

	assert_state_travels(&travel, world);
	destroy(world);
}

static void bars_answer_where_the_driver_put_them(void **state)
{
	struct world *world = in_use(), *copy = moved(world);

	assert_true(copy->bar_enabled[0]);
	assert_int_equal(copy->bar_address[0], BAR_ADDRESS);
	assert_int_equal(copy->moved, 1);
	assert_true(copy->bus_master);
	destroy(world);
	destroy(copy);
}

static void a_vector_interrupts_with_its_message(void **state)
{
	struct world *world = in_use(), *copy = moved(world);

	pci_function_msix_notify(&copy->function, 2);
	assert_int_equal(copy->bound, 1);
	assert_int_equal(copy->message_address, 0x1fee03000);
	assert_int_equal(copy->message_data, 0x4023);
	destroy(world);
	destroy(copy);
}

static void a_pending_interrupt_comes_when_it_is_unmasked(void **state)
{
	struct world *world = in_use(), *copy = moved(world);
	const uint32_t unmasked = 0;

	assert_int_equal(copy->bound, 0);
	pci_function_bar_write(&copy->function, 0, TABLE + 16 + 12, &unmasked, 4);
	assert_int_equal(copy->bound, 1);
	assert_int_equal(copy->message_data, 0x4022);
	destroy(world);
	destroy(copy);
}

static void another_device_is_refused_by_the_byte_that_differs(void **state)
{
	struct world *world = in_use(), *other = create();
	size_t size;
	uint8_t *bytes = travel_save(&travel, world, &size);

	other->function.config[PCI_DEVICE_ID] = 0x42;
	assert_error_with(travel_load(&travel, other, bytes, size), "byte 0x02 ");
	assert_false(other->bar_enabled[0]);
	free(bytes);
	destroy(world);
	destroy(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_field_travels),
	    cmocka_unit_test(bars_answer_where_the_driver_put_them),
	    cmocka_unit_test(a_vector_interrupts_with_its_message),
	    cmocka_unit_test(a_pending_interrupt_comes_when_it_is_unmasked),
	    cmocka_unit_test(another_device_is_refused_by_the_byte_that_differs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
