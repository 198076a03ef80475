/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The run directory of run_directory.h. Used by the VM's main thread at start and end, and by the
 * command line. Locks are open-file-description locks (fcntl F_OFD_SETLK): they can be asked about
 * (F_OFD_GETLK) without being taken, so listing never gets in the way of a start. Other processes
 * of the same user control the directory's content; a pid file's text is only shown, never acted
 * upon.
 */
#include "control/run_directory.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/log.h"
#include "machine/machine_config.h"

struct run_entry {
	int lock_fd;
	char *socket_path;
	char *pid_path;
	bool away; /* the files are another process's */
};

struct error *run_directory_path(char **path)
{
	const char *directory = getenv("GODWIT_RUN_DIR");
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	int length;

	if (directory && *directory)
		length = asprintf(path, "%s", directory);
	else if (geteuid() == 0)
		length = asprintf(path, "/run/godwit");
	else if (runtime && *runtime)
		length = asprintf(path, "%s/godwit", runtime);
	else
		return error_usage(
		    "there is no directory for control sockets: set XDG_RUNTIME_DIR or "
		    "GODWIT_RUN_DIR");
	if (length < 0) {
		*path = NULL;
		return error_system(ENOMEM, "run directory");
	}
	return NULL;
}

/* "<run directory>/<name><suffix>" */
static struct error *entry_path(const char *name, const char *suffix, char **path)
{
	AUTO_FREE char *directory = NULL;

	TRY(machine_identifier_check("name", name, VM_NAME_MAX));
	TRY(run_directory_path(&directory));
	if (asprintf(path, "%s/%s%s", directory, name, suffix) < 0) {
		*path = NULL;
		return error_system(ENOMEM, "run directory");
	}
	return NULL;
}

struct error *run_directory_socket(const char *name, char **path)
{
	struct sockaddr_un address;

	TRY(entry_path(name, ".sock", path));
	if (strlen(*path) >= sizeof(address.sun_path)) {
		struct error *error = error_usage(
		    "the path of the control socket, %s, is longer than the %zu bytes that "
		    "the system takes: set GODWIT_RUN_DIR to a shorter directory",
		    *path, sizeof(address.sun_path) - 1);

		free(TAKE_PTR(*path));
		return error;
	}
	return NULL;
}

/* Creates the run directory; what is above it must exist. */
static struct error *make_directory(void)
{
	AUTO_FREE char *path = NULL;

	TRY(run_directory_path(&path));
	if (mkdir(path, 0700) == 0 || errno == EEXIST)
		return NULL;
	return error_system(errno, "cannot create the run directory %s", path);
}

/* True if a process holds the write lock on @fd's file. */
static bool is_locked(int fd)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

/* True if @path is still the file that @fd has open. */
static bool is_same_file(int fd, const char *path)
{
	struct stat opened, named;

	return fstat(fd, &opened) == 0 && stat(path, &named) == 0 &&
	       opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

static pid_t read_pid(int fd)
{
	char text[24];
	ssize_t length = pread(fd, text, sizeof(text) - 1, 0);

	if (length <= 0)
		return 0;
	text[length] = '\0';
	return (pid_t)strtol(text, NULL, 10);
}

/* Opens and locks the pid file; -EAGAIN when its owner removed it meanwhile, -EBUSY when it is
 * owned. */
static int lock_pid_file(const char *path, int *lock_fd)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return -errno;
	if (fcntl(fd, F_OFD_SETLK, &lock) < 0)
		return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
	if (!is_same_file(fd, path))
		return -EAGAIN;
	*lock_fd = TAKE_FD(fd);
	return 0;
}

/* At the beginning: another process may have written before, with the same open file. */
static int write_pid(int fd)
{
	char text[24];
	int size = snprintf(text, sizeof(text), "%d\n", getpid());

	return ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)size, 0) != size ? -1 : 0;
}

struct error *run_entry_claim(const char *name, struct run_entry **result)
{
	struct run_entry *entry;
	AUTO_FREE char *socket_path = NULL;
	AUTO_FREE char *pid_path = NULL;
	AUTO_CLOSE int lock_fd = -1;
	int failure;

	TRY(run_directory_socket(name, &socket_path));
	TRY(entry_path(name, ".pid", &pid_path));
	TRY(make_directory());
	do {
		failure = lock_pid_file(pid_path, &lock_fd);
	} while (failure == -EAGAIN);
	if (failure == -EBUSY)
		return error_new(
		    EEXIST, "a VM named '%s' is running: choose another --name, or stop it", name);
	if (failure)
		return error_system(-failure, "cannot lock %s", pid_path);
	if (write_pid(lock_fd) < 0)
		return error_system(errno, "cannot write %s", pid_path);
	/* The lock is ours, so whoever made this socket is dead. */
	if (unlink(socket_path) == 0)
		log_info("removed the control socket of a dead VM, %s", socket_path);
	entry = calloc(1, sizeof(*entry));
	if (!entry)
		return error_system(ENOMEM, "run directory");
	entry->lock_fd = TAKE_FD(lock_fd);
	entry->socket_path = TAKE_PTR(socket_path);
	entry->pid_path = TAKE_PTR(pid_path);
	*result = entry;
	return NULL;
}

struct error *run_entry_adopt(const char *name, int lock_fd, struct run_entry **result)
{
	AUTO_FREE char *socket_path = NULL;
	AUTO_FREE char *pid_path = NULL;
	AUTO_CLOSE int own = lock_fd;
	struct run_entry *entry;

	TRY(run_directory_socket(name, &socket_path));
	TRY(entry_path(name, ".pid", &pid_path));
	if (!is_same_file(own, pid_path))
		return error_new(EBADMSG, "%s is not the file whose lock has come along", pid_path);
	entry = calloc(1, sizeof(*entry));
	if (!entry)
		return error_system(ENOMEM, "run directory");
	entry->lock_fd = TAKE_FD(own);
	entry->socket_path = TAKE_PTR(socket_path);
	entry->pid_path = TAKE_PTR(pid_path);
	entry->away = true;
	*result = entry;
	return NULL;
}

void run_entry_own(struct run_entry *entry)
{
	entry->away = false;
	if (write_pid(entry->lock_fd) < 0)
		log_warning("%s has the number of another process: %m", entry->pid_path);
}

void run_entry_leave(struct run_entry *entry)
{
	entry->away = true;
}

int run_entry_lock(const struct run_entry *entry)
{
	return entry->lock_fd;
}

const char *run_entry_socket(const struct run_entry *entry)
{
	return entry->socket_path;
}

void run_entry_release(struct run_entry *entry)
{
	if (!entry)
		return;
	if (!entry->away) {
		unlink(entry->socket_path);
		/* While still locked: nobody else can have claimed it. */
		unlink(entry->pid_path);
	}
	close_fd(&entry->lock_fd);
	free(entry->socket_path);
	free(entry->pid_path);
	free(entry);
}

bool run_directory_running(const char *name, pid_t *pid)
{
	AUTO_FREE char *path = NULL;
	AUTO_CLOSE int fd = -1;
	AUTO_ERROR struct error *error = entry_path(name, ".pid", &path);

	if (error)
		return false;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || !is_locked(fd))
		return false;
	if (pid)
		*pid = read_pid(fd);
	return true;
}

static int compare_listings(const void *a, const void *b)
{
	const struct run_listing *left = a, *right = b;

	return strcmp(left->name, right->name);
}

struct error *run_directory_list(struct run_listing **result, size_t *count)
{
	AUTO_FREE char *path = NULL;
	AUTO_CLOSEDIR DIR *directory = NULL;
	struct run_listing *listings = NULL;
	struct dirent *item;
	size_t used = 0;

	*result = NULL;
	*count = 0;
	TRY(run_directory_path(&path));
	directory = opendir(path);
	if (!directory)
		return errno == ENOENT ? NULL : error_system(errno, "cannot read %s", path);
	while ((item = readdir(directory)) != NULL) {
		size_t length = strlen(item->d_name);
		struct run_listing *grown;
		AUTO_FREE char *name = NULL;
		pid_t pid;

		if (length <= 4 || strcmp(item->d_name + length - 4, ".pid") != 0)
			continue;
		name = strndup(item->d_name, length - 4);
		if (!name || !run_directory_running(name, &pid))
			continue;
		grown = reallocarray(listings, used + 1, sizeof(*listings));
		if (!grown) {
			run_listings_free(listings, used);
			return error_system(ENOMEM, "list of VMs");
		}
		listings = grown;
		listings[used++] = (struct run_listing){.name = TAKE_PTR(name), .pid = pid};
	}
	if (used)
		qsort(listings, used, sizeof(*listings), compare_listings);
	*result = listings;
	*count = used;
	return NULL;
}

void run_listings_free(struct run_listing *listings, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(listings[i].name);
	free(listings);
}
