/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Host memory for guests, see ram_block.h.
 *
 * All backings are mapped with MAP_NORESERVE, so that a block costs address space only. What
 * commits memory differs:
 *
 *   memfd, anon   the host overcommits: pages come with the first touch (or at once with prealloc)
 *   hugetlb       fallocate() takes huge pages from the pool, or says that the pool is dry;
 * touching a huge page that was never taken would end in SIGBUS file          fallocate() allocates
 * blocks of the file system, or says that it is full; the same SIGBUS
 *
 * Discarding is MADV_DONTNEED for anonymous memory and a punched hole for everything that has a
 * descriptor.
 */
#include "memory/ram_block.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <linux/mempolicy.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include "base/checked.h"
#include "base/log.h"
#include "base/size.h"
#include "memory/ram_clone.h"

#define BASE_PAGE_SIZE KIB(4)
#define HOST_ALIGNMENT MIB(2) /* so that transparent huge pages and KVM's large mappings fit */
#define HOST_NODE_MAX  63

struct error *ram_backing_options_take(struct options *options, struct ram_backing_options *backing)
{
	const char *text = options_take(options, "backing");
	uint64_t node = 0;

	*backing = (struct ram_backing_options){.backing = RAM_BACKING_MEMFD, .host_node = -1};
	if (!text || strcmp(text, "memfd") == 0) {
		/* the default */
	} else if (strcmp(text, "hugetlb") == 0 || strcmp(text, "hugetlb-2M") == 0) {
		backing->backing = RAM_BACKING_HUGETLB;
		backing->page_size = MIB(2);
	} else if (strcmp(text, "hugetlb-1G") == 0) {
		backing->backing = RAM_BACKING_HUGETLB;
		backing->page_size = GIB(1);
	} else if (strcmp(text, "anon") == 0) {
		backing->backing = RAM_BACKING_ANON;
	} else if (strncmp(text, "file:", 5) == 0 && text[5]) {
		backing->backing = RAM_BACKING_FILE;
		backing->path = strdup(text + 5);
		if (!backing->path)
			return error_system(ENOMEM, "backing");
	} else {
		return error_usage("backing '%s' is not known: use memfd, hugetlb, hugetlb-2M, "
				   "hugetlb-1G, anon or file:PATH",
				   text);
	}
	text = options_take(options, "host-node");
	if (text) {
		TRY(error_prefix(number_parse(text, HOST_NODE_MAX, &node), "host-node"));
		backing->host_node = (int)node;
	}
	return options_take_bool(options, "prealloc", &backing->prealloc);
}

void ram_backing_options_clear(struct ram_backing_options *backing)
{
	free(backing->path);
	backing->path = NULL;
}

const char *ram_backing_describe(const struct ram_backing_options *backing, char *text, size_t size)
{
	switch (backing->backing) {
	case RAM_BACKING_MEMFD:
		snprintf(text, size, "memfd");
		break;
	case RAM_BACKING_HUGETLB:
		snprintf(text, size, "hugetlb-%s", backing->page_size == GIB(1) ? "1G" : "2M");
		break;
	case RAM_BACKING_ANON:
		snprintf(text, size, "anon");
		break;
	case RAM_BACKING_FILE:
		snprintf(text, size, "file:%s", backing->path);
		break;
	}
	return text;
}

/* The block size of the file system that holds @path (or would hold it), if that is a hugetlbfs. */
static uint64_t file_page_size(const char *path)
{
	AUTO_FREE char *directory = strdup(path);
	struct statfs info;
	char *slash = directory ? strrchr(directory, '/') : NULL;

	if (statfs(path, &info) < 0) {
		if (slash)
			slash[slash == directory] = '\0';
		if (statfs(slash ? directory : ".", &info) < 0)
			return BASE_PAGE_SIZE;
	}
	return info.f_type == HUGETLBFS_MAGIC ? (uint64_t)info.f_bsize : BASE_PAGE_SIZE;
}

uint64_t ram_backing_page_size(const struct ram_backing_options *backing)
{
	switch (backing->backing) {
	case RAM_BACKING_HUGETLB:
		return backing->page_size ?: MIB(2);
	case RAM_BACKING_FILE:
		return file_page_size(backing->path);
	default:
		return BASE_PAGE_SIZE;
	}
}

static struct error *open_memfd(struct ram_block *block)
{
	unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;

	if (block->options.backing == RAM_BACKING_HUGETLB)
		flags |= MFD_HUGETLB | (block->page_size == GIB(1) ? MFD_HUGE_1GB : MFD_HUGE_2MB);
	block->fd = memfd_create(block->name, flags);
	if (block->fd < 0) {
		char text[SIZE_TEXT_MAX];

		return error_system(errno, "cannot create memory of %s pages for '%s'",
				    size_format(block->page_size, text), block->name);
	}
	if (ftruncate(block->fd, (off_t)block->size) < 0)
		return error_system(errno, "cannot size the memory of '%s'", block->name);
	/* Who shares it must not be able to cut it off, which would end this process. */
	if (fcntl(block->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return error_system(errno, "cannot seal the memory of '%s'", block->name);
	return NULL;
}

/*
 * Two machines on one file would share their memory; an open file description lock, which lasts as
 * long as the descriptor, keeps them apart.
 */
static struct error *lock_file(struct ram_block *block)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (fcntl(block->fd, F_OFD_SETLK, &lock) == 0)
		return NULL;
	return error_system(errno, "memory file '%s' is in use by another process",
			    block->options.path);
}

static struct error *open_file(struct ram_block *block)
{
	const char *path = block->options.path;
	char have[SIZE_TEXT_MAX], want[SIZE_TEXT_MAX];
	struct stat info;

	block->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (block->fd < 0 || fstat(block->fd, &info) < 0)
		return error_system(errno, "cannot open memory file '%s'", path);
	if (!S_ISREG(info.st_mode))
		return error_new(EINVAL, "memory file '%s' is not a regular file", path);
	TRY(lock_file(block));
	if (info.st_size && (uint64_t)info.st_size != block->size)
		return error_new(
		    EINVAL, "memory file '%s' has %s, not %s: name another file or remove it", path,
		    size_format((uint64_t)info.st_size, have), size_format(block->size, want));
	if (ftruncate(block->fd, (off_t)block->size) < 0)
		return error_system(errno, "cannot size memory file '%s'", path);
	/* Elastic memory needs both operations later; find out now. Old content goes with it. */
	if (fallocate(block->fd, 0, 0, (off_t)block->page_size) < 0)
		return error_system(errno, "cannot allocate in memory file '%s'", path);
	if (fallocate(block->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
		      (off_t)block->size) < 0)
		return error_system(
		    errno, "the file system of memory file '%s' cannot give memory back", path);
	return NULL;
}

/*
 * Guest memory has no place in a core dump of the VMM, and wants huge pages where the host has
 * them. A file on a disk must not be read ahead: that would bring in pages for the unplugged blocks
 * behind a plugged one.
 */
static void advise(const struct ram_block *block, uint64_t offset, uint64_t size)
{
	uint8_t *start = block->host + offset;
	struct statfs info;

	madvise(start, size, MADV_DONTDUMP);
	if (block->options.backing == RAM_BACKING_FILE && fstatfs(block->fd, &info) == 0 &&
	    info.f_type != TMPFS_MAGIC)
		madvise(start, size, MADV_RANDOM);
	else if (block->page_size == BASE_PAGE_SIZE)
		madvise(start, size, block->small ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
}

static bool is_huge(const struct ram_block *block)
{
	return block->page_size > BASE_PAGE_SIZE;
}

/* Maps the block at an aligned address: reserves more than needed, maps inside, drops the rest. */
static struct error *map_block(struct ram_block *block)
{
	uint64_t alignment = MAX(block->page_size, HOST_ALIGNMENT);
	uint64_t reserved = block->size + alignment;
	int flags =
	    MAP_FIXED | MAP_NORESERVE | (block->fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
	uint8_t *area =
	    mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *start;

	if (area == MAP_FAILED)
		return error_system(errno, "no address space for memory '%s'", block->name);
	start = area + (-(uintptr_t)area & (alignment - 1));
	if (start > area)
		munmap(area, (size_t)(start - area));
	if (start + block->size < area + reserved)
		munmap(start + block->size, (size_t)(area + reserved - start - block->size));
	if (mmap(start, block->size, PROT_READ | PROT_WRITE, flags, block->fd, 0) == MAP_FAILED) {
		int failure = errno;

		munmap(start, block->size);
		return error_system(failure, "cannot map memory '%s'", block->name);
	}
	block->host = start;
	advise(block, 0, block->size);
	return NULL;
}

static struct error *bind_range(const struct ram_block *block, uint64_t offset, uint64_t size)
{
	unsigned long nodes;

	if (block->options.host_node < 0)
		return NULL;
	nodes = 1UL << block->options.host_node;
	if (syscall(SYS_mbind, block->host + offset, size, MPOL_BIND, &nodes, HOST_NODE_MAX + 1,
		    0) < 0)
		return error_system(errno, "cannot bind memory '%s' to host node %d", block->name,
				    block->options.host_node);
	return NULL;
}

struct error *ram_block_dress(const struct ram_block *block, uint64_t offset, uint64_t size)
{
	advise(block, offset, size);
	return bind_range(block, offset, size);
}

/* A block without memory yet. */
static struct error *new_block(const char *name, const struct ram_backing_options *options,
			       uint64_t size, struct ram_block **result)
{
	struct ram_block *block = calloc(1, sizeof(*block));
	char page[SIZE_TEXT_MAX];

	if (!block)
		return error_system(ENOMEM, "memory '%s'", name);
	*result = block;
	block->fd = -1;
	pthread_rwlock_init(&block->watchers_lock, NULL);
	snprintf(block->name, sizeof(block->name), "%s", name);
	block->options = *options;
	block->options.path = options->path ? strdup(options->path) : NULL;
	block->size = size;
	block->page_size = ram_backing_page_size(options);
	if (!size || !is_aligned(size, block->page_size))
		return error_usage("the size of memory '%s' is not a multiple of its page size, %s",
				   name, size_format(block->page_size, page));
	return NULL;
}

struct error *ram_block_create(const char *name, const struct ram_backing_options *options,
			       uint64_t size, struct ram_block **result)
{
	AUTO_RAM_BLOCK struct ram_block *block = NULL;

	TRY(new_block(name, options, size, &block));
	if (options->backing == RAM_BACKING_FILE)
		TRY(open_file(block));
	else if (options->backing != RAM_BACKING_ANON)
		TRY(open_memfd(block));
	TRY(map_block(block));
	TRY(bind_range(block, 0, block->size));
	*result = TAKE_PTR(block);
	return NULL;
}

/* --- Handing over ------------------------------------------------------------------------------ */

/* What another process says to be memory must be it: touching a hole behind its end would kill us. */
static struct error *check_adopted(const struct ram_block *block)
{
	struct statfs system;
	struct stat info;
	int flags = fcntl(block->fd, F_GETFL);

	if (flags < 0 || fstat(block->fd, &info) < 0 || fstatfs(block->fd, &system) < 0)
		return error_system(errno, "memory '%s'", block->name);
	if (!S_ISREG(info.st_mode) || (flags & O_ACCMODE) != O_RDWR)
		return error_new(EINVAL, "memory '%s': what was handed over is not memory",
				 block->name);
	if ((uint64_t)info.st_size != block->size)
		return error_new(EINVAL,
				 "memory '%s': what was handed over has %" PRIu64
				 " bytes instead of %" PRIu64,
				 block->name, (uint64_t)info.st_size, block->size);
	if ((system.f_type == HUGETLBFS_MAGIC ? (uint64_t)system.f_bsize : BASE_PAGE_SIZE) !=
	    block->page_size)
		return error_new(EINVAL, "memory '%s': what was handed over has other pages",
				 block->name);
	return NULL;
}

struct error *ram_block_adopt(const char *name, const struct ram_backing_options *options,
			      uint64_t size, int fd, struct ram_block **result)
{
	AUTO_RAM_BLOCK struct ram_block *block = NULL;
	AUTO_CLOSE int own = fd;

	TRY(new_block(name, options, size, &block));
	TRY(ram_block_check_shareable(block));
	block->fd = TAKE_FD(own);
	block->borrowed = true;
	TRY(check_adopted(block));
	TRY(map_block(block));
	TRY(bind_range(block, 0, block->size));
	*result = TAKE_PTR(block);
	return NULL;
}

static bool is_borrowed(const struct ram_block *block)
{
	return __atomic_load_n(&block->borrowed, __ATOMIC_RELAXED);
}

void ram_block_own(struct ram_block *block)
{
	__atomic_store_n(&block->borrowed, false, __ATOMIC_RELAXED);
}

struct error *ram_block_check_shareable(const struct ram_block *block)
{
	if (block->clone)
		return error_new(
		    ENOTSUP,
		    "memory '%s' is a clone's, which shares pages of a file: it cannot "
		    "be handed to another process",
		    block->name);
	if (block->options.backing == RAM_BACKING_ANON)
		return error_new(ENOTSUP,
				 "memory '%s' is anonymous, which cannot be handed to another "
				 "process: memfd can",
				 block->name);
	return NULL;
}

void ram_block_destroy(struct ram_block *block)
{
	if (!block)
		return;
	if (block->host)
		munmap(block->host, block->size);
	ram_clone_destroy(block->clone);
	close_fd(&block->fd);
	pthread_rwlock_destroy(&block->watchers_lock);
	free(block->options.path);
	free(block);
}

void ram_block_set_granule(struct ram_block *block, uint64_t granule)
{
	if (block->page_size != BASE_PAGE_SIZE || granule >= HOST_ALIGNMENT)
		return;
	block->small = true;
	madvise(block->host, block->size, MADV_NOHUGEPAGE);
}

void ram_block_set_reserving(struct ram_block *block)
{
	__atomic_store_n(&block->reserving, true, __ATOMIC_RELAXED);
}

void ram_block_end_reserving(struct ram_block *block)
{
	if (!is_huge(block))
		__atomic_store_n(&block->reserving, false, __ATOMIC_RELAXED);
}

static bool is_reserving(const struct ram_block *block)
{
	return __atomic_load_n(&block->reserving, __ATOMIC_RELAXED);
}

/* A shared mapping takes reservations for its file, which stay when it goes. 0 or an errno. */
static int reserve_huge_pages(const struct ram_block *block, uint64_t offset, uint64_t size)
{
	void *place = mmap(NULL, size, PROT_NONE, MAP_SHARED, block->fd, (off_t)offset);

	if (place == MAP_FAILED)
		return errno;
	munmap(place, size);
	return 0;
}

/* Small pages cannot be reserved; a file at least says what it has room for. 0 or an errno. */
static int check_room(const struct ram_block *block, uint64_t size)
{
	struct statfs info;

	if (block->options.backing != RAM_BACKING_FILE)
		return 0;
	if (fstatfs(block->fd, &info) < 0)
		return errno;
	/* A file system without a limit says that it has no blocks. */
	return info.f_blocks && info.f_bavail < size / (uint64_t)info.f_bsize ? ENOSPC : 0;
}

/* Takes the pages now, or reserves them. 0 or an errno. */
static int take_pages(const struct ram_block *block, uint64_t offset, uint64_t size)
{
	if (is_reserving(block))
		return is_huge(block) ? reserve_huge_pages(block, offset, size)
				      : check_room(block, size);
	if (block->fd < 0)
		return madvise(block->host + offset, size, MADV_POPULATE_WRITE) < 0 ? errno : 0;
	return fallocate(block->fd, 0, (off_t)offset, (off_t)size) < 0 ? errno : 0;
}

static bool commits(const struct ram_block *block)
{
	return block->options.backing == RAM_BACKING_HUGETLB ||
	       block->options.backing == RAM_BACKING_FILE || block->options.prealloc;
}

int ram_block_take_rest(struct ram_block *block, uint64_t offset, uint64_t size)
{
	int failure;

	if (!commits(block) || is_huge(block) || block->clone)
		return 0;
	failure = take_pages(block, offset, size);
	return !failure ? 0 : failure == ENOMEM ? -ENOMEM : -ENOSPC;
}

int ram_block_commit(struct ram_block *block, uint64_t offset, uint64_t size)
{
	int failure;

	if (!commits(block) || is_borrowed(block))
		return 0;
	failure = take_pages(block, offset, size);
	if (!failure)
		return 0;
	if (is_reserving(block)) /* all or nothing */
		return failure == ENOMEM ? -ENOMEM : -ENOSPC;
	/* fallocate and madvise stop half way; what they did must not stay. */
	if (ram_block_discard(block, offset, size) < 0)
		log_error("memory '%s': cannot give back a range that was half committed",
			  block->name);
	return failure == ENOMEM ? -ENOMEM : -ENOSPC;
}

void ram_block_watch(struct ram_block *block, const struct ram_block_watcher *watcher)
{
	pthread_rwlock_wrlock(&block->watchers_lock);
	assert(!block->watchers[1]);
	block->watchers[block->watchers[0] ? 1 : 0] = watcher;
	pthread_rwlock_unlock(&block->watchers_lock);
}

void ram_block_unwatch(struct ram_block *block, const struct ram_block_watcher *watcher)
{
	pthread_rwlock_wrlock(&block->watchers_lock);
	if (block->watchers[0] == watcher) {
		block->watchers[0] = block->watchers[1];
		block->watchers[1] = NULL;
	} else if (block->watchers[1] == watcher) {
		block->watchers[1] = NULL;
	}
	pthread_rwlock_unlock(&block->watchers_lock);
}

static void tell_watchers(struct ram_block *block, uint64_t offset, uint64_t size)
{
	pthread_rwlock_rdlock(&block->watchers_lock);
	for (size_t i = 0; i < 2 && block->watchers[i]; i++)
		block->watchers[i]->before_discard(block->watchers[i]->context, block, offset,
						   size);
	pthread_rwlock_unlock(&block->watchers_lock);
}

int ram_block_discard(struct ram_block *block, uint64_t offset, uint64_t size)
{
	if (is_borrowed(block))
		return -EBUSY;
	tell_watchers(block, offset, size);
	/* A hole gives back the reservations of pages that were taken, not of others: take them all. */
	if (is_reserving(block) && is_huge(block) &&
	    fallocate(block->fd, 0, (off_t)offset, (off_t)size) < 0)
		log_warning("memory '%s': huge pages may stay reserved: %s", block->name,
			    strerror(errno));
	if (block->clone)
		return ram_clone_discard(block, offset, size);
	if (block->fd < 0)
		return madvise(block->host + offset, size, MADV_DONTNEED) < 0 ? -errno : 0;
	return fallocate(block->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
			 (off_t)size) < 0
		   ? -errno
		   : 0;
}

void ram_block_clear(struct ram_block *block, uint64_t offset, uint64_t size)
{
	if (block->fd < 0)
		memset(block->host + offset, 0, size);
}

/* Counts what mincore says, a stretch at a time so that the vector stays small. */
static uint64_t resident_pages(const struct ram_block *block)
{
	enum { STRETCH = 16384 };
	uint64_t pages = block->size / BASE_PAGE_SIZE;
	AUTO_FREE unsigned char *vector = malloc(STRETCH);
	uint64_t total = 0;

	for (uint64_t page = 0; vector && page < pages; page += STRETCH) {
		uint64_t count = MIN(pages - page, (uint64_t)STRETCH);

		if (mincore(block->host + page * BASE_PAGE_SIZE, count * BASE_PAGE_SIZE, vector) <
		    0)
			break;
		for (uint64_t i = 0; i < count; i++)
			total += vector[i] & 1;
	}
	return total;
}

uint64_t ram_block_resident(const struct ram_block *block)
{
	struct ram_clone_usage usage;
	struct stat info;

	if (block->clone) {
		ram_clone_usage(block, &usage);
		return usage.own;
	}
	/* A memfd's allocation is its memory; a file's is on disk, so ask for its cached pages. */
	if (block->fd >= 0 && block->options.backing != RAM_BACKING_FILE &&
	    fstat(block->fd, &info) == 0)
		return (uint64_t)info.st_blocks * 512;
	return resident_pages(block) * BASE_PAGE_SIZE;
}

uint64_t ram_block_shared(const struct ram_block *block)
{
	struct ram_clone_usage usage = {0};

	if (block->clone)
		ram_clone_usage(block, &usage);
	return usage.shared;
}
