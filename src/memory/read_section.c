/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Read sections, see read_section.h.
 *
 * Why both sets are drained: a reader may load `current`, be delayed, and count itself in that set
 * after the writer has made the other one current. For the writer of that moment it is a late
 * reader (it counted itself after the writer's check, so it sees the writer's stores), but for the
 * next writer it is an early one in the set that is not current.
 */
#include "memory/read_section.h"

#include <time.h>

#include "base/clock.h"

#define POLL_NS (50 * 1000)

/* Threads take stripes in turn; which one a thread has is no state worth keeping anywhere else. */
static unsigned int stripe_of_thread(void)
{
	static unsigned int next;
	static _Thread_local unsigned int own = ~0U;

	if (own == ~0U)
		own = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED) % READ_SECTION_STRIPES;
	return own;
}

int read_section_begin(struct read_sections *sections)
{
	unsigned int stripe = stripe_of_thread();
	unsigned int set = __atomic_load_n(&sections->current, __ATOMIC_RELAXED) & 1;

	/* Sequentially consistent: nothing the section reads may move before it is counted. */
	__atomic_fetch_add(&sections->stripes[stripe].begun[set], 1, __ATOMIC_SEQ_CST);
	return (int)(stripe << 1 | set);
}

void read_section_end(struct read_sections *sections, int token)
{
	__atomic_fetch_add(&sections->stripes[token >> 1].ended[token & 1], 1, __ATOMIC_RELEASE);
}

/* Ends are summed first: a section counted as ended was begun, so equality means that none is open.
 */
static bool set_is_idle(const struct read_sections *sections, unsigned int set)
{
	uint64_t begun = 0, ended = 0;

	for (int i = 0; i < READ_SECTION_STRIPES; i++)
		ended += __atomic_load_n(&sections->stripes[i].ended[set], __ATOMIC_ACQUIRE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (int i = 0; i < READ_SECTION_STRIPES; i++)
		begun += __atomic_load_n(&sections->stripes[i].begun[set], __ATOMIC_SEQ_CST);
	return begun == ended;
}

static bool wait_for_set(const struct read_sections *sections, unsigned int set, int64_t deadline)
{
	const struct timespec pause = {.tv_nsec = POLL_NS};

	while (!set_is_idle(sections, set)) {
		if (clock_monotonic_ns() > deadline)
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

bool read_sections_wait(struct read_sections *sections, int64_t timeout_ns)
{
	int64_t deadline = clock_monotonic_ns() + timeout_ns;
	unsigned int set = sections->current & 1;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!wait_for_set(sections, set ^ 1, deadline))
		return false;
	__atomic_store_n(&sections->current, set ^ 1, __ATOMIC_SEQ_CST);
	return wait_for_set(sections, set, deadline);
}
