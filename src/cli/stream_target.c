/* SPDX-License-Identifier: BSD-2-Clause */
/* See stream_target.h. Everything comes from the person at the command line. */
#include "cli/stream_target.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/size.h"
#include "snapshot/snapshot_receive.h"

static const char *after(const char *name, const char *prefix)
{
	size_t length = strlen(prefix);

	return strncmp(name, prefix, length) == 0 ? name + length : NULL;
}

/* The number of the descriptor that @name stands for, as text, or NULL. */
static const char *descriptor_of(const char *name)
{
	static const char *const names[] = {"/dev/stdin", "/dev/stdout", "/dev/stderr"};
	static const char *const numbers[] = {"0", "1", "2"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(name, names[i]) == 0)
			return numbers[i];
	return after(name, "fd:") ?: after(name, "/dev/fd/") ?: after(name, "/proc/self/fd/");
}

struct error *stream_target_parse(const char *name, struct stream_target *target)
{
	const char *number = descriptor_of(name);
	struct stat status;
	uint64_t value = 0;

	*target = (struct stream_target){.name = name, .fd = -1};
	target->command = after(name, "exec:");
	if (target->command) {
		target->kind = STREAM_COMMAND;
		return *target->command ? NULL : error_usage("exec: lacks a command");
	}
	if (number) {
		target->kind = STREAM_DESCRIPTOR;
		TRY(error_prefix(number_parse(number, INT_MAX, &value), "%s", name));
		target->number = (int)value;
		return NULL;
	}
	if (stat(name, &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISCHR(status.st_mode)))
		target->kind = STREAM_PATH;
	return NULL;
}

/* A descriptor of our own for an inherited one. */
static struct error *duplicate(const struct stream_target *target, int *fd)
{
	*fd = fcntl(target->number, F_DUPFD_CLOEXEC, 3);
	return *fd < 0 ? error_system(errno, "%s: this command was given no such descriptor",
				      target->name)
		       : NULL;
}

static struct error *open_path(const struct stream_target *target, int flags, int *fd)
{
	*fd = open(target->name, flags | O_CLOEXEC | O_NOCTTY);
	return *fd < 0 ? error_system(errno, "cannot open %s", target->name) : NULL;
}

struct error *stream_target_open(struct stream_target *target)
{
	if (target->kind == STREAM_COMMAND)
		return child_start(target->command, CHILD_READS, &target->fd, &target->child);
	if (target->kind == STREAM_DESCRIPTOR)
		TRY(duplicate(target, &target->fd));
	else
		TRY(open_path(target, O_WRONLY, &target->fd));
	return isatty(target->fd)
		   ? error_usage("%s is a terminal: give a file or a pipe", target->name)
		   : NULL;
}

void stream_target_close(struct stream_target *target)
{
	close_fd(&target->fd);
	child_end(TAKE_PTR(target->child));
}

/* A regular file, which is a stream only if it holds one. */
static bool is_other_file(int fd)
{
	struct stat status;

	return fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && !snapshot_is_stream(fd);
}

struct error *stream_source_open(const char *name, struct channel **channel)
{
	struct stream_target source;
	AUTO_CLOSE int fd = -1;
	struct stat status;

	TRY(stream_target_parse(name, &source));
	if (source.kind == STREAM_COMMAND)
		return channel_open_command(source.command, CHANNEL_READ, channel);
	if (source.kind == STREAM_DESCRIPTOR) {
		TRY(duplicate(&source, &fd));
	} else if (source.kind == STREAM_PATH) {
		TRY(open_path(&source, O_RDONLY, &fd));
	} else {
		/* Whatever is wrong with it, who opens files says it better. */
		if (stat(name, &status) < 0 || !S_ISREG(status.st_mode))
			return NULL;
		fd = open(name, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return NULL;
	}
	/* A file has a name to open it by, which fd:N is not. */
	if (!after(name, "fd:") && is_other_file(fd))
		return NULL;
	return channel_open(TAKE_FD(fd), CHANNEL_READ, name, channel);
}
