/* SPDX-License-Identifier: BSD-2-Clause */
/* What every mini-guest shares; see mini.h. One processor, interrupts off, everything polled. */
#include "mini.h"

#include "machine/platform.h"

#define SLEEP_ENABLE 0x20

/* --- Serial line, checks --------------------------------------------------------------------------- */

static void put(char c)
{
	while (!(in8(PLATFORM_SERIAL_PORT + 5) & 0x20)) {
	}
	out8(PLATFORM_SERIAL_PORT, (uint8_t)c);
}

void print(const char *text)
{
	while (*text)
		put(*text++);
}

void print_number(const char *name, uint64_t value)
{
	char digits[24];
	int at = sizeof(digits) - 1;

	digits[at] = '\0';
	do {
		digits[--at] = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	print(name);
	print(" ");
	print(digits + at);
	print("\n");
}

void check(bool condition, const char *text)
{
	print(condition ? "ok " : "FAIL ");
	print(text);
	print("\n");
}

void checkpoint(const char *name)
{
	print("checkpoint ");
	print(name);
	print("\n");
	while (!(in8(PLATFORM_SERIAL_PORT + 5) & 1)) {
	}
	in8(PLATFORM_SERIAL_PORT);
}

void power_off(void)
{
	print("done\n");
	out8(PLATFORM_POWER_PORT, PLATFORM_SLEEP_TYPE_OFF << 2 | SLEEP_ENABLE);
	for (;;)
		__asm__ volatile("hlt");
}

void reset_machine(void)
{
	out8(PLATFORM_POWER_PORT + 2, PLATFORM_RESET_VALUE);
	for (;;)
		__asm__ volatile("hlt");
}

uint64_t argument(const char *cmdline, const char *name, uint64_t fallback)
{
	for (const char *at = cmdline; *at; at++) {
		const char *a = at, *b = name;
		uint64_t value = 0;

		if (at != cmdline && at[-1] != ' ')
			continue;
		while (*b && *a == *b) {
			a++;
			b++;
		}
		if (*b || *a++ != '=')
			continue;
		while (*a >= '0' && *a <= '9')
			value = value * 10 + (uint64_t)(*a++ - '0');
		return value;
	}
	return fallback;
}

void *memcpy(void *to, const void *from, size_t size)
{
	void *start = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size)::"memory");
	return start;
}

void *memset(void *to, int value, size_t size)
{
	void *start = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
	return start;
}

/* --- Exceptions ------------------------------------------------------------------------------------ */

struct gate {
	uint16_t offset_low, selector;
	uint8_t ist, type;
	uint16_t offset_middle;
	uint32_t offset_high, reserved;
};

struct gate mini_idt[32];
static void *escape[5]; /* for __builtin_setjmp */

/* Any exception: what is on the stack is of no use, the escape restores everything. */
static void exception_escape(void)
{
	__builtin_longjmp(escape, 1);
}

bool survives(void (*function)(uint64_t argument), uint64_t value)
{
	uint64_t target = (uint64_t)(uintptr_t)exception_escape;

	for (int i = 0; i < 32; i++)
		mini_idt[i] = (struct gate){.offset_low = (uint16_t)target,
					    .selector = 8,
					    .type = 0x8e,
					    .offset_middle = (uint16_t)(target >> 16),
					    .offset_high = (uint32_t)(target >> 32)};
	if (__builtin_setjmp(escape))
		return false;
	function(value);
	return true;
}

/* --- PCI ------------------------------------------------------------------------------------------- */

uint32_t pci_read(uint8_t devfn, uint8_t offset)
{
	out32(PLATFORM_PCI_PORT, 0x80000000u | (uint32_t)devfn << 8 | (offset & 0xfc));
	return in32(PLATFORM_PCI_PORT + 4) >> (8 * (offset & 3));
}

void pci_write(uint8_t devfn, uint8_t offset, uint32_t value)
{
	out32(PLATFORM_PCI_PORT, 0x80000000u | (uint32_t)devfn << 8 | (offset & 0xfc));
	out32(PLATFORM_PCI_PORT + 4, value);
}

static uint64_t bar_address(uint8_t devfn, uint8_t bar)
{
	uint32_t low = pci_read(devfn, (uint8_t)(0x10 + 4 * bar));
	uint64_t address = low & ~0xfu;

	if ((low & 6) == 4)
		address |= (uint64_t)pci_read(devfn, (uint8_t)(0x14 + 4 * bar)) << 32;
	return address;
}

/* --- virtio ---------------------------------------------------------------------------------------- */

/* Fields of the common configuration (virtio 1.2 section 4.1.4.3). */
enum {
	DEVICE_FEATURE_SELECT = 0,
	DEVICE_FEATURE = 4,
	DRIVER_FEATURE_SELECT = 8,
	DRIVER_FEATURE = 12,
	STATUS = 20,
	QUEUE_SELECT = 22,
	QUEUE_SIZE_FIELD = 24,
	QUEUE_ENABLE = 28,
	QUEUE_NOTIFY_OFF = 30,
	QUEUE_DESC = 32,
	QUEUE_DRIVER = 40,
	QUEUE_DEVICE = 48
};

bool virtio_find(uint16_t id, int index, struct virtio *virtio)
{
	for (int devfn = 0; devfn < 256; devfn++) {
		uint8_t at = (uint8_t)devfn;

		if (pci_read(at, 0) != (0x1af4u | (0x1040u + id) << 16) || index-- > 0)
			continue;
		*virtio = (struct virtio){.devfn = at};
		pci_write(at, 4, 6); /* memory decoding, bus mastering */
		for (uint8_t cap = (uint8_t)pci_read(at, 0x34); cap;
		     cap = (uint8_t)pci_read(at, (uint8_t)(cap + 1))) {
			uint64_t base;

			if ((uint8_t)pci_read(at, cap) != 9)
				continue;
			base = bar_address(at, (uint8_t)pci_read(at, (uint8_t)(cap + 4))) +
			       pci_read(at, (uint8_t)(cap + 8));
			switch ((uint8_t)pci_read(at, (uint8_t)(cap + 3))) {
			case 1:
				virtio->common = base;
				break;
			case 2:
				virtio->notify = base;
				virtio->notify_multiplier = pci_read(at, (uint8_t)(cap + 16));
				break;
			case 4:
				virtio->device = base;
				break;
			}
		}
		return virtio->common && virtio->notify;
	}
	return false;
}

uint8_t virtio_status(const struct virtio *virtio)
{
	return MMIO(uint8_t, virtio->common + STATUS);
}

void virtio_reset(struct virtio *virtio)
{
	MMIO(uint8_t, virtio->common + STATUS) = 0;
	while (virtio_status(virtio)) {
	}
}

static void set64(uint64_t address, uint64_t value)
{
	MMIO(uint32_t, address) = (uint32_t)value;
	MMIO(uint32_t, address + 4) = (uint32_t)(value >> 32);
}

void virtio_set_queue(struct virtio *virtio, int number, uint64_t descriptors, uint64_t available,
		      uint64_t used, uint16_t size)
{
	MMIO(uint16_t, virtio->common + QUEUE_SELECT) = (uint16_t)number;
	MMIO(uint16_t, virtio->common + QUEUE_SIZE_FIELD) = size;
	set64(virtio->common + QUEUE_DESC, descriptors);
	set64(virtio->common + QUEUE_DRIVER, available);
	set64(virtio->common + QUEUE_DEVICE, used);
	MMIO(uint16_t, virtio->common + QUEUE_ENABLE) = 1;
}

bool virtio_start(struct virtio *virtio, uint64_t features, struct queue *queues, int count)
{
	features |= 1ULL << 32;
	virtio_reset(virtio);
	MMIO(uint8_t, virtio->common + STATUS) = 1;
	MMIO(uint8_t, virtio->common + STATUS) = 3;
	for (uint32_t half = 0; half < 2; half++) {
		MMIO(uint32_t, virtio->common + DRIVER_FEATURE_SELECT) = half;
		MMIO(uint32_t, virtio->common + DRIVER_FEATURE) =
		    (uint32_t)(features >> (32 * half));
	}
	MMIO(uint8_t, virtio->common + STATUS) = 11;
	if (!(virtio_status(virtio) & 8))
		return false;
	virtio->queues = queues;
	for (int i = 0; i < count; i++) {
		struct queue *queue = &queues[i];

		memset(queue, 0, sizeof(*queue));
		virtio_set_queue(virtio, i, (uintptr_t)queue->descriptors,
				 (uintptr_t)&queue->available, (uintptr_t)&queue->used, QUEUE_SIZE);
		queue->number = (uint16_t)i;
		queue->doorbell =
		    virtio->notify + MMIO(uint16_t, virtio->common + QUEUE_NOTIFY_OFF) *
					 (uint64_t)virtio->notify_multiplier;
	}
	MMIO(uint8_t, virtio->common + STATUS) = 15;
	return true;
}

void queue_submit(struct queue *queue, uint16_t head)
{
	queue->available.ring[queue->available.index % QUEUE_SIZE] = head;
	__asm__ volatile("mfence" ::: "memory");
	queue->available.index++;
	__asm__ volatile("mfence" ::: "memory");
	MMIO(uint16_t, queue->doorbell) = queue->number;
}

bool queue_wait(struct virtio *virtio, struct queue *queue, uint16_t used_before)
{
	while (queue->used.index == used_before)
		if (virtio_status(virtio) & STATUS_NEEDS_RESET)
			return queue->used.index != used_before;
	return true;
}

/* --- virtio-mem ------------------------------------------------------------------------------------ */

static uint64_t get64(uint64_t address)
{
	return MMIO(uint32_t, address) | (uint64_t)MMIO(uint32_t, address + 4) << 32;
}

void mem_read_config(const struct virtio *virtio, struct mem_config *config)
{
	config->block_size = get64(virtio->device);
	config->address = get64(virtio->device + 16);
	config->region_size = get64(virtio->device + 24);
	config->usable = get64(virtio->device + 32);
	config->plugged = get64(virtio->device + 40);
	config->requested = get64(virtio->device + 48);
}

int mem_request(struct virtio *virtio, uint16_t type, uint64_t address, uint16_t blocks,
		uint16_t *state)
{
	static struct {
		uint16_t type, pad[3];
		uint64_t address;
		uint16_t blocks, pad2[3];
	} request;
	static struct {
		uint16_t type, pad[3], state;
	} response;
	struct queue *queue = virtio->queues;
	uint16_t used = queue->used.index;

	request.type = type;
	request.address = address;
	request.blocks = blocks;
	queue->descriptors[0].address = (uintptr_t)&request;
	queue->descriptors[0].length = sizeof(request);
	queue->descriptors[0].flags = DESCRIPTOR_NEXT;
	queue->descriptors[0].next = 1;
	queue->descriptors[1].address = (uintptr_t)&response;
	queue->descriptors[1].length = 10;
	queue->descriptors[1].flags = DESCRIPTOR_WRITE;
	queue_submit(queue, 0);
	if (!queue_wait(virtio, queue, used))
		return MEM_NO_ANSWER;
	if (state)
		*state = *(volatile uint16_t *)&response.state;
	return *(volatile uint16_t *)&response.type;
}

/* --- Start ----------------------------------------------------------------------------------------- */

void mini_main(const uint32_t *start_info);
void mini_main(const uint32_t *start_info)
{
	/* struct hvm_start_info: magic, version, flags, nr_modules, modlist (64 bits), cmdline (64 bits). */
	const char *cmdline = (const char *)(uintptr_t) * (const uint64_t *)(start_info + 6);

	guest_main(cmdline ? cmdline : "");
	power_off();
}
