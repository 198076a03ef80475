/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The rate limit of event_throttle.h. Main loop only. A guest controls how often events come; the
 * table is small and fixed, and when it is full of young entries an event goes out unlimited rather
 * than being lost.
 */
#include "control/event_throttle.h"

#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "control/qmp_dispatch.h"

#define PERIOD_NS   NS_PER_SECOND
#define ENTRIES_MAX 72 /* every elastic device's size change, and a few more */
#define SUBJECT_MAX 64

struct throttle_entry {
	const char *name; /* of limited_events; NULL: free */
	char subject[SUBJECT_MAX];
	int64_t due_ns; /* until when further events wait */
	json_t *held;	/* the latest that waits, or NULL */
};

struct event_throttle {
	struct event_timer *timer;
	event_emitter emit;
	void *context;
	struct throttle_entry entries[ENTRIES_MAX];
};

static const char *const limited_events[] = {
    "MEMORY_DEVICE_SIZE_CHANGE",
    "MEMORY_UNPLUGGED_ACCESS",
};

/* The name as in limited_events, which outlives the caller's, or NULL. */
static const char *find_limited(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(limited_events); i++)
		if (strcmp(limited_events[i], name) == 0)
			return limited_events[i];
	return NULL;
}

static const char *event_subject(json_t *data)
{
	const char *subject = json_string_value(json_object_get(data, "qom-path"));

	return subject ?: json_string_value(json_object_get(data, "id")) ?: "";
}

static void emit_held(struct event_throttle *throttle, struct throttle_entry *entry)
{
	json_t *event = TAKE_PTR(entry->held);

	throttle->emit(throttle->context, event);
	json_decref(event);
}

/* Arms the timer for the earliest entry that holds something. */
static void arm_timer(struct event_throttle *throttle, int64_t now)
{
	int64_t earliest = INT64_MAX;

	for (size_t i = 0; i < ENTRIES_MAX; i++)
		if (throttle->entries[i].held)
			earliest = MIN(earliest, throttle->entries[i].due_ns);
	if (earliest != INT64_MAX)
		event_timer_arm(throttle->timer, MAX(earliest - now, 0LL));
}

static void timer_expired(void *context)
{
	struct event_throttle *throttle = context;
	int64_t now = clock_monotonic_ns();

	for (size_t i = 0; i < ENTRIES_MAX; i++) {
		struct throttle_entry *entry = &throttle->entries[i];

		if (entry->held && entry->due_ns <= now) {
			entry->due_ns = now + PERIOD_NS;
			emit_held(throttle, entry);
		}
	}
	arm_timer(throttle, now);
}

struct error *event_throttle_create(struct event_loop *loop, event_emitter emit, void *context,
				    struct event_throttle **result)
{
	struct event_throttle *throttle = calloc(1, sizeof(*throttle));
	struct error *error;

	if (!throttle)
		return error_system(ENOMEM, "events");
	throttle->emit = emit;
	throttle->context = context;
	error = event_timer_create(loop, timer_expired, throttle, &throttle->timer);
	if (error) {
		free(throttle);
		return error;
	}
	*result = throttle;
	return NULL;
}

void event_throttle_destroy(struct event_throttle *throttle)
{
	if (!throttle)
		return;
	for (size_t i = 0; i < ENTRIES_MAX; i++)
		json_decref(throttle->entries[i].held);
	event_timer_destroy(throttle->timer);
	free(throttle);
}

/* The entry of (name, subject), or one that can be used for it, or NULL. */
static struct throttle_entry *find_entry(struct event_throttle *throttle, const char *name,
					 const char *subject, int64_t now)
{
	struct throttle_entry *unused = NULL;

	for (size_t i = 0; i < ENTRIES_MAX; i++) {
		struct throttle_entry *entry = &throttle->entries[i];

		if (entry->name == name && strcmp(entry->subject, subject) == 0)
			return entry;
		if (!entry->name || (!entry->held && entry->due_ns <= now))
			unused = entry;
	}
	if (unused) {
		unused->name = name;
		unused->due_ns = 0;
		snprintf(unused->subject, sizeof(unused->subject), "%s", subject);
	}
	return unused;
}

void event_throttle_submit(struct event_throttle *throttle, const char *name, json_t *data)
{
	json_t *event = qmp_event(name, data);
	const char *limited = find_limited(name);
	struct throttle_entry *entry = NULL;
	int64_t now = clock_monotonic_ns();

	if (!event)
		return;
	if (limited)
		entry = find_entry(throttle, limited, event_subject(data), now);
	if (entry && now < entry->due_ns) {
		json_decref(entry->held);
		entry->held = event;
		arm_timer(throttle, now);
		return;
	}
	if (entry) {
		json_decref(entry->held); /* overdue, and this one is newer */
		entry->held = NULL;
		entry->due_ns = now + PERIOD_NS;
	}
	throttle->emit(throttle->context, event);
	json_decref(event);
}

void event_throttle_flush(struct event_throttle *throttle)
{
	for (size_t i = 0; i < ENTRIES_MAX; i++)
		if (throttle->entries[i].held)
			emit_held(throttle, &throttle->entries[i]);
}
