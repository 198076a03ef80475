/* SPDX-License-Identifier: BSD-2-Clause */
/* KVM's dirty rings, see dirty_ring.h. The guest controls which pages are in them, and how fast. */
#include "kvm/dirty_ring.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"

struct error *kvm_vm_enable_dirty_rings(struct kvm_vm *vm, uint32_t entries)
{
	/* On x86 the two are the same; the newer one says that it keeps its order on others. */
	static const uint32_t capabilities[] = {KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
						KVM_CAP_DIRTY_LOG_RING};
	uint64_t size = (uint64_t)entries * sizeof(struct kvm_dirty_gfn);

	for (size_t i = 0; i < ARRAY_SIZE(capabilities); i++) {
		int largest = ioctl(vm->vm_fd, KVM_CHECK_EXTENSION, capabilities[i]);
		struct kvm_enable_cap enable = {.cap = capabilities[i], .args = {size}};

		if (largest <= 0)
			continue;
		if (!is_power_of_two(entries) || size > (uint64_t)largest)
			return error_usage("a dirty ring of %u entries is not possible: a power of "
					   "two up to %zu is",
					   entries, (size_t)largest / sizeof(struct kvm_dirty_gfn));
		if (ioctl(vm->vm_fd, KVM_ENABLE_CAP, &enable) < 0)
			return error_system(errno, "KVM refuses dirty rings of %u entries",
					    entries);
		vm->dirty_ring_entries = entries;
		return NULL;
	}
	return error_new(ENOTSUP, "this host's KVM has no dirty rings (Linux 5.11): use the "
				  "bitmap of dirty pages");
}

struct error *dirty_ring_open(struct dirty_ring *ring, const struct kvm_vm *vm, int vcpu_fd)
{
	size_t size = vm->dirty_ring_entries * sizeof(struct kvm_dirty_gfn);
	off_t place = KVM_DIRTY_LOG_PAGE_OFFSET * sysconf(_SC_PAGESIZE);
	void *entries;

	*ring = (struct dirty_ring){.count = vm->dirty_ring_entries};
	if (!size)
		return NULL;
	entries = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, place);
	if (entries == MAP_FAILED)
		return error_system(errno, "cannot map a dirty ring");
	ring->entries = entries;
	return NULL;
}

void dirty_ring_close(struct dirty_ring *ring)
{
	if (ring->entries)
		munmap(ring->entries, ring->count * sizeof(struct kvm_dirty_gfn));
	*ring = (struct dirty_ring){0};
}

bool dirty_ring_take(struct dirty_ring *ring, struct dirty_ring_entry *entry)
{
	struct kvm_dirty_gfn *place;

	if (!ring->entries)
		return false;
	place = (struct kvm_dirty_gfn *)ring->entries + (ring->next & (ring->count - 1));
	if (!(__atomic_load_n(&place->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY))
		return false;
	*entry = (struct dirty_ring_entry){.slot = place->slot, .page = place->offset};
	__atomic_store_n(&place->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
	ring->next++;
	__atomic_store_n(&ring->pages, ring->pages + 1, __ATOMIC_RELAXED);
	return true;
}
