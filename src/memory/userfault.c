/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * userfaultfd, see userfault.h.
 *
 * A block is registered for missing pages and write protection together, whatever its watchers
 * want: the kernel drops both when one is taken off, and between that and the next registration
 * pages that are still missing would read as zeros. So a block stays registered until its last
 * watcher has left. Registering both also means that a page which was never touched needs no mark
 * of protection in the page tables: its first write is a missing page.
 *
 * `lock` (readers: faults on their way to a watcher; writer: a watcher that comes or goes) makes
 * unwatch wait for the handlers that run.
 */
#include "memory/userfault.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include "base/checked.h"
#include "base/log.h"
#include "base/thread.h"
#include "memory/userfault_private.h"

#define FEATURES                                                                                   \
	(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_HUGETLBFS |                         \
	 UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

/* --- Pages ------------------------------------------------------------------------------------- */

static uint64_t address_of(const struct ram_block *block, uint64_t offset)
{
	return (uint64_t)(uintptr_t)(block->host + offset);
}

static void wake(struct userfault *userfault, uint64_t start, uint64_t size)
{
	struct uffdio_range range = {.start = start, .len = size};

	ioctl(userfault->fd, UFFDIO_WAKE, &range);
}

static bool is_huge(const struct ram_block *block)
{
	return block->page_size > (uint64_t)sysconf(_SC_PAGESIZE);
}

/* One step. Returns the bytes that were filled, or a negative errno. */
static int64_t copy_some(struct userfault *userfault, uint64_t to, const void *source,
			 uint64_t size)
{
	struct uffdio_copy copy = {.dst = to, .src = (uint64_t)(uintptr_t)source, .len = size};

	if (!ioctl(userfault->fd, UFFDIO_COPY, &copy))
		return (int64_t)size;
	return copy.copy > 0 ? copy.copy : -errno;
}

static int64_t zero_some(struct userfault *userfault, uint64_t to, uint64_t size)
{
	struct uffdio_zeropage zero = {.range = {.start = to, .len = size}};

	if (!ioctl(userfault->fd, UFFDIO_ZEROPAGE, &zero))
		return (int64_t)size;
	return zero.zeropage > 0 ? zero.zeropage : -errno;
}

/* @source NULL: zeros. Huge pages have no zero page of the kernel's; they are copied from ours. */
static int64_t fill_some(struct userfault *userfault, const struct ram_block *block,
			 uint64_t offset, const uint8_t *source, uint64_t size)
{
	uint64_t to = address_of(block, offset);

	if (source)
		return copy_some(userfault, to, source, size);
	if (is_huge(block))
		return copy_some(userfault, to, userfault->zeros, block->page_size);
	return zero_some(userfault, to, size);
}

static int fill(struct userfault *userfault, const struct ram_block *block, uint64_t offset,
		const uint8_t *source, uint64_t size, bool skip_present)
{
	for (uint64_t done = 0; done < size;) {
		int64_t step = fill_some(userfault, block, offset + done,
					 source ? source + done : NULL, size - done);

		if (step == -EEXIST && skip_present) {
			/* Whoever waits for it may have missed the wake-up. */
			wake(userfault, address_of(block, offset + done), block->page_size);
			step = (int64_t)block->page_size;
		}
		if (step > 0)
			userfault_wake_remotes(userfault, block, offset + done, (uint64_t)step);
		if (step == -EAGAIN) /* the address space is being changed: again */
			continue;
		if (step < 0)
			return (int)step;
		done += (uint64_t)step;
	}
	return 0;
}

int userfault_copy(struct userfault *userfault, struct ram_block *block, uint64_t offset,
		   const void *source, uint64_t size)
{
	return fill(userfault, block, offset, source, size, true);
}

int userfault_zero(struct userfault *userfault, struct ram_block *block, uint64_t offset,
		   uint64_t size)
{
	return fill(userfault, block, offset, NULL, size, true);
}

int userfault_fill(struct userfault *userfault, struct ram_block *block, uint64_t offset,
		   const void *source, uint64_t size)
{
	return fill(userfault, block, offset, source, size, false);
}

static int set_protection(struct userfault *userfault, struct ram_block *block, uint64_t offset,
			  uint64_t size, uint64_t mode)
{
	struct uffdio_writeprotect protection = {
	    .range = {.start = address_of(block, offset), .len = size},
	    .mode = mode,
	};

	while (ioctl(userfault->fd, UFFDIO_WRITEPROTECT, &protection) < 0)
		if (errno != EAGAIN)
			return -errno;
	return 0;
}

int userfault_protect(struct userfault *userfault, struct ram_block *block, uint64_t offset,
		      uint64_t size)
{
	return set_protection(userfault, block, offset, size, UFFDIO_WRITEPROTECT_MODE_WP);
}

int userfault_unprotect(struct userfault *userfault, struct ram_block *block, uint64_t offset,
			uint64_t size)
{
	return set_protection(userfault, block, offset, size, 0);
}

/* --- Faults ------------------------------------------------------------------------------------ */

static struct watched_block *find_block(struct userfault *userfault, const struct ram_block *block)
{
	for (uint32_t i = 0; i < userfault->block_count; i++)
		if (userfault->blocks[i].block == block)
			return &userfault->blocks[i];
	return NULL;
}

static struct watched_block *find_address(struct userfault *userfault, uint64_t address)
{
	for (uint32_t i = 0; i < userfault->block_count; i++) {
		struct watched_block *watched = &userfault->blocks[i];

		if (range_contains(address_of(watched->block, 0), watched->block->size, address, 1))
			return watched;
	}
	return NULL;
}

static bool offer(const struct watched_block *watched, uint64_t offset, bool protected)
{
	for (size_t i = 0; i < 2; i++) {
		const struct userfault_watcher *watcher = watched->watchers[i];

		if (!watcher)
			continue;
		if (protected ? watcher->ops->written(watcher->context, watched->block, offset)
			      : watcher->ops->missing(watcher->context, watched->block, offset))
			return true;
	}
	return false;
}

bool userfault_offer_missing(struct userfault *userfault, const struct ram_block *block,
			     uint64_t offset)
{
	const struct watched_block *watched = find_block(userfault, block);

	__atomic_fetch_add(&userfault->missing, 1, __ATOMIC_RELAXED);
	return watched && offer(watched, offset, false);
}

static void handle_fault(struct userfault *userfault, uint64_t address, bool protected)
{
	struct watched_block *watched;

	pthread_rwlock_rdlock(&userfault->lock);
	watched = find_address(userfault, address);
	if (!watched) {
		/* Its last watcher has just left, and with it the registration: try again. */
		pthread_rwlock_unlock(&userfault->lock);
		wake(userfault, align_down(address, (uint64_t)sysconf(_SC_PAGESIZE)),
		     (uint64_t)sysconf(_SC_PAGESIZE));
		return;
	}
	uint64_t page = watched->block->page_size;
	uint64_t offset = align_down(address - address_of(watched->block, 0), page);

	__atomic_fetch_add(protected ? &userfault->written : &userfault->missing, 1,
			   __ATOMIC_RELAXED);
	if (!offer(watched, offset, protected)) {
		int result = protected
				 ? userfault_unprotect(userfault, watched->block, offset, page)
				 : userfault_zero(userfault, watched->block, offset, page);

		if (result < 0)
			log_error("memory '%s': a fault at offset %#lx cannot be settled: %s: "
				  "the guest hangs there; make room on the host, kill this process "
				  "and start the VM again",
				  watched->block->name, offset, strerror(-result));
	}
	pthread_rwlock_unlock(&userfault->lock);
}

static void *fault_thread(void *context)
{
	struct userfault *userfault = context;
	struct pollfd polls[2] = {{.fd = userfault->fd, .events = POLLIN},
				  {.fd = userfault->stop_fd, .events = POLLIN}};
	struct uffd_msg message;

	for (;;) {
		ssize_t got = read(userfault->fd, &message, sizeof(message));

		if (got == (ssize_t)sizeof(message)) {
			if (message.event == UFFD_EVENT_PAGEFAULT)
				handle_fault(userfault, message.arg.pagefault.address,
					     message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP);
			continue;
		}
		if (poll(polls, 2, -1) > 0 && polls[1].revents)
			return NULL;
	}
}

/* --- Watching ---------------------------------------------------------------------------------- */

struct error *userfault_supports(const struct ram_block *block)
{
	struct statfs info;

	if (block->clone)
		return error_new(EOPNOTSUPP,
				 "memory '%s' is a clone's, which shares pages of a file that the "
				 "host cannot watch: this works without --live",
				 block->name);
	if (block->options.backing != RAM_BACKING_FILE)
		return NULL;
	if (fstatfs(block->fd, &info) == 0 &&
	    (info.f_type == TMPFS_MAGIC || info.f_type == HUGETLBFS_MAGIC))
		return NULL;
	return error_new(EOPNOTSUPP,
			 "memory '%s' is a file on a disk, whose pages the host cannot watch: "
			 "back it by memfd, hugetlb, anon or a file on tmpfs",
			 block->name);
}

static struct error *add_block(struct userfault *userfault, struct ram_block *block,
			       struct userfault_watcher *watcher)
{
	struct uffdio_register registration = {
	    .range = {.start = address_of(block, 0), .len = block->size},
	    .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
	};

	if (userfault->block_count == USERFAULT_BLOCKS_MAX)
		return error_new(ENOSPC, "more than %d memory blocks cannot be watched",
				 USERFAULT_BLOCKS_MAX);
	if (is_huge(block) && block->page_size > userfault->zeros_size) {
		void *zeros = mmap(NULL, block->page_size, PROT_READ,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (zeros == MAP_FAILED)
			return error_system(errno, "no address space for a page of zeros");
		if (userfault->zeros)
			munmap(userfault->zeros, userfault->zeros_size);
		userfault->zeros = zeros;
		userfault->zeros_size = block->page_size;
	}
	/* The block is listed first: faults may come from within the registration. */
	userfault->blocks[userfault->block_count++] =
	    (struct watched_block){.block = block, .watchers = {watcher}};
	if (ioctl(userfault->fd, UFFDIO_REGISTER, &registration) < 0) {
		userfault->block_count--;
		return error_system(errno, "memory '%s' cannot be watched (userfaultfd)",
				    block->name);
	}
	return NULL;
}

struct error *userfault_watch(struct userfault *userfault, struct ram_block *block,
			      struct userfault_watcher *watcher)
{
	struct error *error = userfault_supports(block);
	struct watched_block *watched;

	if (error)
		return error;
	pthread_rwlock_wrlock(&userfault->lock);
	watched = find_block(userfault, block);
	if (!watched)
		error = add_block(userfault, block, watcher);
	else if (!watched->watchers[1])
		watched->watchers[1] = watcher;
	else
		error =
		    error_new(EBUSY, "memory '%s' is watched by two others already", block->name);
	pthread_rwlock_unlock(&userfault->lock);
	return error;
}

void userfault_unwatch(struct userfault *userfault, struct ram_block *block,
		       struct userfault_watcher *watcher)
{
	struct uffdio_range range = {.start = address_of(block, 0), .len = block->size};
	struct watched_block *watched;

	pthread_rwlock_wrlock(&userfault->lock);
	watched = find_block(userfault, block);
	if (watched && watched->watchers[0] == watcher) {
		watched->watchers[0] = watched->watchers[1];
		watched->watchers[1] = NULL;
	} else if (watched && watched->watchers[1] == watcher) {
		watched->watchers[1] = NULL;
	}
	if (watched && !watched->watchers[0]) {
		/* Wakes all who wait; they find an ordinary mapping. Drops every protection. */
		if (ioctl(userfault->fd, UFFDIO_UNREGISTER, &range) < 0)
			log_error("memory '%s': cannot stop watching: %s", block->name,
				  strerror(errno));
		*watched = userfault->blocks[--userfault->block_count];
	}
	pthread_rwlock_unlock(&userfault->lock);
}

/* --- Life -------------------------------------------------------------------------------------- */

/* Faults inside the kernel (KVM's, io_uring's) need the privilege that the device node stands for. */
static int open_userfaultfd(void)
{
	int node = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int fd;

	if (node < 0)
		return (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	fd = ioctl(node, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(node);
	return fd;
}

struct error *userfault_create(uint32_t threads, struct userfault **result)
{
	AUTO_USERFAULT struct userfault *userfault = calloc(1, sizeof(*userfault));
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};

	if (!userfault)
		return error_system(ENOMEM, "userfaultfd");
	userfault->stop_fd = -1;
	pthread_rwlock_init(&userfault->lock, NULL);
	pthread_rwlock_init(&userfault->remotes_lock, NULL);
	userfault->fd = open_userfaultfd();
	if (userfault->fd < 0)
		return error_system(errno,
				    "cannot open userfaultfd: allow this user to open "
				    "/dev/userfaultfd, or set vm.unprivileged_userfaultfd=1");
	if (ioctl(userfault->fd, UFFDIO_API, &api) < 0)
		return error_system(errno, "this kernel's userfaultfd cannot write-protect shared "
					   "memory: Linux 5.19 or later is needed");
	userfault->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (userfault->stop_fd < 0)
		return error_system(errno, "userfaultfd");
	for (uint32_t i = 0; i < MIN(threads, USERFAULT_THREADS_MAX); i++) {
		char name[16];

		snprintf(name, sizeof(name), "fault%u", i);
		TRY(thread_start(&userfault->threads[i], name, fault_thread, userfault));
		userfault->thread_count++;
	}
	*result = TAKE_PTR(userfault);
	return NULL;
}

void userfault_destroy(struct userfault *userfault)
{
	if (!userfault)
		return;
	if (userfault->stop_fd >= 0)
		eventfd_write(userfault->stop_fd, 1);
	for (uint32_t i = 0; i < userfault->thread_count; i++)
		pthread_join(userfault->threads[i], NULL);
	if (userfault->zeros)
		munmap(userfault->zeros, userfault->zeros_size);
	close_fd(&userfault->stop_fd);
	close_fd(&userfault->fd);
	pthread_rwlock_destroy(&userfault->remotes_lock);
	pthread_rwlock_destroy(&userfault->lock);
	free(userfault);
}

void userfault_statistics(const struct userfault *userfault,
			  struct userfault_statistics *statistics)
{
	statistics->missing = __atomic_load_n(&userfault->missing, __ATOMIC_RELAXED);
	statistics->written = __atomic_load_n(&userfault->written, __ATOMIC_RELAXED);
}
