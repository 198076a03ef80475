/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Cuts a process at a chosen call, for tests: preloaded, it counts the calls that reach a disk, a
 * pipe or userfaultfd, and makes one of them the last one, fail, or do half of what it should.
 *
 * The test and the process share a file, which the environment names (CUTTER): struct control below;
 * tests/support/cutter.py has the other side. Calls are counted while the
 * test has it armed, from the first one that opens `path` on if that is not empty. Names of the calls
 * are kept, in order: a test counts first and then knows where it can cut.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define CALLS_MAX 4096
#define NAME_SIZE 16

enum action { CUT_NOTHING, CUT_KILL, CUT_FAIL, CUT_TEAR, CUT_SHORT, CUT_TRUNCATE, CUT_HOLD };

/* Little-endian, without gaps. */
struct control {
	uint32_t armed;
	uint32_t action;
	uint32_t at;	   /* the call that is cut: which one of those with its name, from 1 */
	int32_t failure;   /* its error number */
	uint64_t length;   /* CUT_TRUNCATE: of `path` then */
	uint32_t counted;  /* calls so far */
	uint32_t reached;  /* set when the cut is made */
	uint32_t released; /* CUT_HOLD: the test lets it go on */
	uint32_t counting; /* `path` was opened */
	uint32_t matched;  /* calls of that name so far */
	uint32_t unused;
	char name[NAME_SIZE];
	char path[256];
	char names[CALLS_MAX][NAME_SIZE];
};

static struct control *control;

__attribute__((constructor)) static void begin(void)
{
	const char *name = getenv("CUTTER");
	int fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
	void *memory;

	/* Not for the commands that the process starts. */
	unsetenv("LD_PRELOAD");
	if (fd < 0)
		return;
	memory = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (memory != MAP_FAILED)
		control = memory;
}

/* Large files are usual: all of these names stand for those with a 64 behind. */
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Counts a call, and makes the cut if it is the one; whether it shall fail or be half. */
static enum action count(const char *name)
{
	uint32_t number;

	if (!control || !__atomic_load_n(&control->armed, __ATOMIC_ACQUIRE) ||
	    (control->path[0] && !__atomic_load_n(&control->counting, __ATOMIC_ACQUIRE)))
		return CUT_NOTHING;
	number = __atomic_add_fetch(&control->counted, 1, __ATOMIC_ACQ_REL);
	if (number <= CALLS_MAX)
		strncpy(control->names[number - 1], name, NAME_SIZE - 1);
	if (strcmp(name, control->name) != 0 ||
	    __atomic_add_fetch(&control->matched, 1, __ATOMIC_ACQ_REL) != control->at)
		return CUT_NOTHING;
	__atomic_store_n(&control->reached, 1, __ATOMIC_RELEASE);
	switch (control->action) {
	case CUT_KILL:
		kill(getpid(), SIGKILL);
		for (;;)
			pause();
	case CUT_TRUNCATE:
		if (truncate(control->path, (off_t)control->length) < 0)
			abort();
		return CUT_NOTHING;
	case CUT_HOLD:
		while (!__atomic_load_n(&control->released, __ATOMIC_ACQUIRE))
			usleep(1000);
		return CUT_NOTHING;
	default:
		return control->action;
	}
}

/* For calls that cannot be half done. */
static bool fails(const char *name)
{
	if (count(name) != CUT_FAIL)
		return false;
	errno = control->failure;
	return true;
}

static void note_open(const char *path)
{
	if (control && control->armed && control->path[0] && strcmp(path, control->path) == 0)
		__atomic_store_n(&control->counting, 1, __ATOMIC_RELEASE);
}

/* --- Names ------------------------------------------------------------------------------------- */

int open(const char *path, int flags, ...)
{
	va_list arguments;
	mode_t mode;

	va_start(arguments, flags);
	mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
	va_end(arguments);
	note_open(path);
	return fails("open") ? -1 : REAL(open)(path, flags, mode);
}

int mkostemp(char *path, int flags)
{
	return fails("mkostemp") ? -1 : REAL(mkostemp)(path, flags);
}

int rename(const char *from, const char *to)
{
	return fails("rename") ? -1 : REAL(rename)(from, to);
}

int unlink(const char *path)
{
	return fails("unlink") ? -1 : REAL(unlink)(path);
}

char *realpath(const char *path, char *resolved)
{
	return fails("realpath") ? NULL : REAL(realpath)(path, resolved);
}

/* --- Files ------------------------------------------------------------------------------------- */

int fsync(int fd)
{
	return fails("fsync") ? -1 : REAL(fsync)(fd);
}

int fdatasync(int fd)
{
	return fails("fdatasync") ? -1 : REAL(fdatasync)(fd);
}

int fallocate(int fd, int mode, off_t offset, off_t size)
{
	return fails("fallocate") ? -1 : REAL(fallocate)(fd, mode, offset, size);
}

int ftruncate(int fd, off_t size)
{
	return fails("ftruncate") ? -1 : REAL(ftruncate)(fd, size);
}

ssize_t pread(int fd, void *bytes, size_t size, off_t offset)
{
	enum action action = count("pread");

	if (action == CUT_FAIL) {
		errno = control->failure;
		return -1;
	}
	return REAL(pread)(fd, bytes, action == CUT_SHORT ? (size + 1) / 2 : size, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
	enum action action = count("pwrite");
	ssize_t result;

	if (action == CUT_FAIL) {
		errno = control->failure;
		return -1;
	}
	result = REAL(pwrite)(fd, bytes, action ? (size + 1) / 2 : size, offset);
	if (action == CUT_TEAR)
		kill(getpid(), SIGKILL);
	return result;
}

/* --- Streams ----------------------------------------------------------------------------------- */

static bool is_stream(int fd)
{
	struct stat status;

	return fstat(fd, &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISREG(status.st_mode));
}

ssize_t writev(int fd, const struct iovec *parts, int parts_count)
{
	struct iovec first = parts[0];
	enum action action = count("writev");
	ssize_t result;

	if (action == CUT_FAIL) {
		errno = control->failure;
		return -1;
	}
	first.iov_len = (first.iov_len + 1) / 2;
	result = action ? REAL(writev)(fd, &first, 1) : REAL(writev)(fd, parts, parts_count);
	if (action == CUT_TEAR)
		kill(getpid(), SIGKILL);
	return result;
}

ssize_t read(int fd, void *bytes, size_t size)
{
	if (control && control->armed && is_stream(fd) && fails("read"))
		return -1;
	return REAL(read)(fd, bytes, size);
}

/* --- io_uring ---------------------------------------------------------------------------------- */

/* The next request that has ended has ended so; the write itself was made, in full. */
static void change_completion(struct io_uring *ring, int result)
{
	struct io_uring_cqe *cqe;

	if (io_uring_wait_cqe(ring, &cqe) == 0)
		cqe->res = result;
}

static int change_submission(struct io_uring *ring, int submitted, enum action action)
{
	struct io_uring_cqe *cqe;

	if (action == CUT_FAIL)
		change_completion(ring, -control->failure);
	else if (action == CUT_SHORT && io_uring_wait_cqe(ring, &cqe) == 0 && cqe->res > 4096)
		cqe->res = 4096;
	return submitted;
}

int io_uring_submit(struct io_uring *ring)
{
	unsigned int ready = io_uring_sq_ready(ring);
	enum action action = ready ? count("io_uring") : CUT_NOTHING;

	return change_submission(ring, REAL(io_uring_submit)(ring), action);
}

int io_uring_submit_and_wait(struct io_uring *ring, unsigned int wait)
{
	unsigned int ready = io_uring_sq_ready(ring);
	enum action action = ready ? count("io_uring") : CUT_NOTHING;

	return change_submission(ring, REAL(io_uring_submit_and_wait)(ring, wait), action);
}

int io_uring_queue_init(unsigned int entries, struct io_uring *ring, unsigned int flags)
{
	if (fails("io_uring_init"))
		return -control->failure;
	return REAL(io_uring_queue_init)(entries, ring, flags);
}

/* --- userfaultfd ------------------------------------------------------------------------------- */

static const char *name_of(unsigned long request)
{
	switch (request) {
	case UFFDIO_REGISTER:
		return "uffd_register";
	case UFFDIO_WRITEPROTECT:
		return "uffd_protect";
	case UFFDIO_COPY:
		return "uffd_copy";
	case UFFDIO_ZEROPAGE:
		return "uffd_zero";
	default:
		return NULL;
	}
}

int ioctl(int fd, unsigned long request, ...)
{
	static __typeof__(&ioctl) real;
	va_list arguments;
	void *argument;

	va_start(arguments, request);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	if (!real) /* a running guest's calls come here too */
		real = REAL(ioctl);
	if (name_of(request) && fails(name_of(request)))
		return -1;
	return real(fd, request, argument);
}
