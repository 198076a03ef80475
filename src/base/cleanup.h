/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Scope-based cleanup: the one cleanup style of the project.
 *
 * A variable declared with AUTO_FREE, AUTO_CLOSE, … is released when its scope ends, on every path.
 * To hand ownership out of the scope use TAKE_PTR or TAKE_FD, which leave NULL or -1 behind.
 * File descriptors start at -1. Closing keeps errno, so an error path can still report it.
 */
#ifndef GODWIT_BASE_CLEANUP_H
#define GODWIT_BASE_CLEANUP_H

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free(void *pointer)
{
	free(*(void **)pointer);
}

static inline void cleanup_close(const int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	errno = saved;
}

static inline void cleanup_fclose(FILE **file)
{
	int saved = errno;

	if (*file)
		fclose(*file);
	errno = saved;
}

static inline void cleanup_closedir(DIR **dir)
{
	int saved = errno;

	if (*dir)
		closedir(*dir);
	errno = saved;
}

#define AUTO(function) __attribute__((cleanup(function)))
#define AUTO_FREE      AUTO(cleanup_free)
#define AUTO_CLOSE     AUTO(cleanup_close)
#define AUTO_FCLOSE    AUTO(cleanup_fclose)
#define AUTO_CLOSEDIR  AUTO(cleanup_closedir)

/* Defines cleanup_NAME for a pointer type whose destructor takes the pointer and accepts NULL. */
#define DEFINE_CLEANUP(name, type, destroy)                                                        \
	static inline void cleanup_##name(type *pointer)                                           \
	{                                                                                          \
		destroy(*pointer);                                                                 \
	}

#define TAKE_PTR(pointer)                                                                          \
	({                                                                                         \
		__typeof__(pointer) taken_ = (pointer);                                            \
		(pointer) = NULL;                                                                  \
		taken_;                                                                            \
	})

#define TAKE_FD(fd)                                                                                \
	({                                                                                         \
		int taken_ = (fd);                                                                 \
		(fd) = -1;                                                                         \
		taken_;                                                                            \
	})

/* Closes *fd if it is open and sets it to -1; keeps errno. */
static inline void close_fd(int *fd)
{
	cleanup_close(fd);
	*fd = -1;
}

#endif
