/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a mini-guest has: a serial line, checks, the PCI bus and just enough of virtio to be a
 * driver, or to be a bad one. A mini-guest does what no kernel would. It speaks to its test over
 * the serial line:
 *
 *     ok TEXT / FAIL TEXT      the outcome of a check
 *     NAME NUMBER              a number for the test
 *     checkpoint NAME          the guest waits for one byte, so that the test can look at the host
 *     done                     the end; the guest then powers off
 */
#ifndef GODWIT_TESTS_MINI_H
#define GODWIT_TESTS_MINI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The guest's program; @cmdline is the kernel command line. Returning powers off. */
void guest_main(const char *cmdline);

void print(const char *text);
void print_number(const char *name, uint64_t value);
void check(bool condition, const char *text);
void checkpoint(const char *name);
void power_off(void) __attribute__((noreturn));
void reset_machine(void) __attribute__((noreturn));
/* The number behind "NAME=" on the command line, or @fallback. */
uint64_t argument(const char *cmdline, const char *name, uint64_t fallback);
void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);

static inline void out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}
static inline uint8_t in8(uint16_t port)
{
	uint8_t value;
	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}
static inline void out32(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port));
}
static inline uint32_t in32(uint16_t port)
{
	uint32_t value;
	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

/* Accesses that the compiler neither drops nor joins. Addresses are guest physical. */
#define MMIO(type, address) (*(volatile type *)(uintptr_t)(address))

/*
 * Runs @function(@argument); true if it ran to the end, false if the processor raised an exception
 * in it (the function is then abandoned).
 */
bool survives(void (*function)(uint64_t argument), uint64_t argument);

uint32_t pci_read(uint8_t devfn, uint8_t offset);
void pci_write(uint8_t devfn, uint8_t offset, uint32_t value);

#define QUEUE_SIZE 16

/* A split virtqueue in the guest's own memory; the fields are there to be abused. */
struct queue {
	struct {
		uint64_t address;
		uint32_t length;
		uint16_t flags;
		uint16_t next;
	} descriptors[QUEUE_SIZE] __attribute__((aligned(16)));
	struct {
		uint16_t flags;
		volatile uint16_t index;
		uint16_t ring[QUEUE_SIZE];
		uint16_t used_event;
	} available __attribute__((aligned(4)));
	struct {
		uint16_t flags;
		volatile uint16_t index;
		struct {
			uint32_t id;
			uint32_t length;
		} ring[QUEUE_SIZE];
		uint16_t avail_event;
	} used __attribute__((aligned(4)));
	uint16_t number;
	uint64_t doorbell;
};

#define DESCRIPTOR_NEXT	    1
#define DESCRIPTOR_WRITE    2
#define DESCRIPTOR_INDIRECT 4

struct virtio {
	uint8_t devfn;
	uint64_t common, notify, device; /* addresses */
	uint32_t notify_multiplier;
	struct queue *queues;
};

#define STATUS_NEEDS_RESET 0x40

/* Finds the @index-th virtio device of type @id; false if there is none. */
bool virtio_find(uint16_t id, int index, struct virtio *virtio);
/* Resets the device, negotiates @features (VERSION_1 is added), sets up queues [0, count), DRIVER_OK. */
bool virtio_start(struct virtio *virtio, uint64_t features, struct queue *queues, int count);
void virtio_reset(struct virtio *virtio);
uint8_t virtio_status(const struct virtio *virtio);
/* Sets the queue's addresses to what the struct says; for tests that lie about them, the parts are separate. */
void virtio_set_queue(struct virtio *virtio, int number, uint64_t descriptors, uint64_t available,
		      uint64_t used, uint16_t size);
/* Publishes descriptor chain @head and rings the doorbell. */
void queue_submit(struct queue *queue, uint16_t head);
/* Waits for one more used entry; false when the device gives none (or needs a reset). */
bool queue_wait(struct virtio *virtio, struct queue *queue, uint16_t used_before);

/* virtio-mem. */
enum { MEM_PLUG, MEM_UNPLUG, MEM_UNPLUG_ALL, MEM_STATE };
enum { MEM_ACK, MEM_NACK, MEM_BUSY, MEM_ERROR, MEM_NO_ANSWER = 100 };
struct mem_config {
	uint64_t block_size, address, region_size, usable, plugged, requested;
};
void mem_read_config(const struct virtio *virtio, struct mem_config *config);
/* Sends one request and returns the response's type. @state may be NULL. */
int mem_request(struct virtio *virtio, uint16_t type, uint64_t address, uint16_t blocks,
		uint16_t *state);

#endif
