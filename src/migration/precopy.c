/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The rounds of precopy.h. The guest controls how much it writes, and with it how many rounds there are:
 * there is no limit to them but the operator's patience, who is told why it takes so long.
 */
#include "migration/precopy.h"

#include <errno.h>
#include <stdio.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/size.h"

#define PAGE 4096ULL
/* Shorter rounds with less say more of how long a thread takes to wake than of the connection. */
#define MEASURE_NS    (10 * NS_PER_MS)
#define MEASURE_PAGES 1024
/* As many rounds without gain are told as such; one may be chance. */
#define STALLED_ROUNDS 3
/* A guest is slowed so that each round leaves this part of what it began with. */
#define GAIN 0.5
/* A rest that takes less than this is not worth another round: the rest of the switch takes as long. */
#define SHORT_NS (2 * PRECOPY_FIXED_NS)
/* The first rounds send what was there before, and zeros: they say little of the guest. */
#define SLOW_FROM_ROUND 3

void precopy_init(struct precopy *precopy, const struct precopy_ops *ops, void *context,
		  int64_t max_downtime_ns)
{
	*precopy = (struct precopy){
	    .ops = ops,
	    .context = context,
	    .max_downtime_ns = max_downtime_ns,
	    .progress = {.downtime_ns = -1, .time_ns = -1, .speed = 1},
	};
	pthread_mutex_init(&precopy->lock, NULL);
}

void precopy_clear(struct precopy *precopy)
{
	if (precopy->ops)
		pthread_mutex_destroy(&precopy->lock);
	precopy->ops = NULL;
}

static uint64_t rate_of(uint64_t pages, int64_t ns)
{
	double rate = (double)pages * PAGE * NS_PER_SECOND / (double)MAX(ns, 1LL);

	return rate < 1e15 ? (uint64_t)rate : 1000000000000000ULL;
}

static int64_t time_for(uint64_t bytes, double rate)
{
	double ns = (double)bytes * NS_PER_SECOND / rate;

	return ns < 1e18 ? (int64_t)ns : 1000000000000000000LL;
}

/* With the lock: what is to be expected with so many @pages left. */
static void foresee(struct precopy_progress *progress, uint64_t pages, int64_t max_downtime_ns)
{
	double send = (double)progress->send_rate, written = (double)progress->write_rate;
	uint64_t allowed = 0, bytes = pages * PAGE;
	int64_t spare = max_downtime_ns - PRECOPY_FIXED_NS;

	progress->downtime_ns = -1;
	progress->time_ns = -1;
	if (!pages)
		progress->downtime_ns = PRECOPY_FIXED_NS;
	else if (progress->send_rate)
		progress->downtime_ns = PRECOPY_FIXED_NS + time_for(bytes, send);
	if (!progress->send_rate || written >= send)
		return;
	if (spare > 0)
		allowed = (uint64_t)((double)spare * send / NS_PER_SECOND);
	progress->time_ns = bytes > allowed ? time_for(bytes - allowed, send - written) : 0;
}

/* With the lock: whether the rest may be sent while the guest stands still. */
static bool is_allowed(const struct precopy *precopy)
{
	const struct precopy_progress *progress = &precopy->progress;

	return progress->round && progress->downtime_ns >= 0 &&
	       (progress->downtime_ns <= precopy->max_downtime_ns || !progress->remaining_pages);
}

/*
 * With the lock: whether a round more is worth its time although the rest, @pages after @before, is
 * allowed. It is while each leaves half of what it began with: all of them together then take no
 * more than twice the time for which the guest would stand still now.
 */
static bool gets_shorter(const struct precopy_progress *progress, uint64_t pages, uint64_t before)
{
	if (!pages || progress->downtime_ns < SHORT_NS)
		return false;
	return (double)progress->write_rate <= (double)progress->send_rate * GAIN &&
	       (progress->round == 1 || (double)pages <= (double)before * GAIN);
}

static struct error *collect(struct precopy *precopy, bool *enough)
{
	const struct precopy_ops *ops = precopy->ops;
	struct precopy_progress *progress = &precopy->progress;
	uint64_t pages, written, before;
	bool was_allowed;
	int64_t now;

	TRY(ops->collect(precopy->context, &pages, &written));
	now = ops->now(precopy->context);
	pthread_mutex_lock(&precopy->lock);
	before = progress->remaining_pages;
	was_allowed = is_allowed(precopy);
	if (progress->round) {
		progress->write_rate = rate_of(written, now - precopy->collected_ns);
		progress->stalled =
		    progress->round > 1 && pages && pages >= before ? progress->stalled + 1 : 0;
	}
	precopy->collected_ns = now;
	progress->remaining_pages = pages;
	progress->scheduled_pages += pages;
	foresee(progress, pages, precopy->max_downtime_ns);
	precopy->bursts |= was_allowed && !is_allowed(precopy);
	*enough =
	    is_allowed(precopy) && (precopy->bursts || !gets_shorter(progress, pages, before));
	progress->phase = *enough ? PRECOPY_READY : progress->round ? PRECOPY_AGAIN : PRECOPY_FIRST;
	progress->round += !*enough;
	pthread_mutex_unlock(&precopy->lock);
	/* Nobody else writes what is known. */
	if (ops->suffices && ops->suffices(precopy->context, progress))
		*enough = true;
	return NULL;
}

/*
 * How much less the guest must write for the rest to become half as large with each round: 1 when it does
 * so by itself. What is written while it is slowed tells how slow it must be; a guest that
 * writes little and still does not come below the limit is given half its time.
 */
static double necessary_factor(const struct precopy_progress *progress)
{
	double allowed = (double)progress->send_rate * GAIN, written = (double)progress->write_rate;

	if (progress->round < SLOW_FROM_ROUND || !progress->send_rate)
		return 1;
	if (written > allowed)
		return allowed / written;
	return progress->stalled ? GAIN : 1;
}

/* Between two rounds. */
static void slow_guest(struct precopy *precopy)
{
	double factor, speed;

	if (!precopy->slows_guests)
		return;
	pthread_mutex_lock(&precopy->lock);
	factor = necessary_factor(&precopy->progress);
	pthread_mutex_unlock(&precopy->lock);
	if (factor >= 1)
		return;
	speed = precopy->ops->slow(precopy->context, factor);
	pthread_mutex_lock(&precopy->lock);
	precopy->progress.speed = speed;
	pthread_mutex_unlock(&precopy->lock);
}

static struct error *send(struct precopy *precopy)
{
	const struct precopy_ops *ops = precopy->ops;
	uint64_t pages = ops->sent(precopy->context);
	int64_t ns = ops->now(precopy->context);

	TRY(ops->send(precopy->context));
	pages = ops->sent(precopy->context) - pages;
	ns = ops->now(precopy->context) - ns;
	pthread_mutex_lock(&precopy->lock);
	if (pages && (ns >= MEASURE_NS || pages >= MEASURE_PAGES || !precopy->progress.send_rate))
		precopy->progress.send_rate = MAX(rate_of(pages, ns), 1ULL);
	pthread_mutex_unlock(&precopy->lock);
	return NULL;
}

struct error *precopy_run(struct precopy *precopy)
{
	const struct precopy_ops *ops = precopy->ops;
	bool enough;

	for (;;) {
		if (ops->stopping && ops->stopping(precopy->context))
			return error_new(ECANCELED, "the migration was cancelled");
		TRY(collect(precopy, &enough));
		if (enough)
			return NULL;
		slow_guest(precopy);
		TRY(send(precopy));
	}
}

void precopy_slow_guests(struct precopy *precopy)
{
	precopy->slows_guests = true;
}

void precopy_set_max_downtime(struct precopy *precopy, int64_t max_downtime_ns)
{
	pthread_mutex_lock(&precopy->lock);
	precopy->max_downtime_ns = max_downtime_ns;
	pthread_mutex_unlock(&precopy->lock);
}

int64_t precopy_max_downtime(struct precopy *precopy)
{
	int64_t ns;

	pthread_mutex_lock(&precopy->lock);
	ns = precopy->max_downtime_ns;
	pthread_mutex_unlock(&precopy->lock);
	return ns;
}

void precopy_get_progress(struct precopy *precopy, struct precopy_progress *progress)
{
	pthread_mutex_lock(&precopy->lock);
	*progress = precopy->progress;
	pthread_mutex_unlock(&precopy->lock);
}

void precopy_explain(const struct precopy_progress *progress, int64_t max_downtime_ns, char *text,
		     size_t size)
{
	char written[SIZE_TEXT_MAX], sent[SIZE_TEXT_MAX], slowed[64] = "";
	const char *help = "let --auto-converge slow it down, or cancel";

	*text = '\0';
	if (progress->phase != PRECOPY_AGAIN || progress->stalled < STALLED_ROUNDS)
		return;
	size_format_human(progress->write_rate, written);
	size_format_human(progress->send_rate, sent);
	if (progress->speed < 1) {
		snprintf(slowed, sizeof(slowed), ", slowed to %.0f %% of its time,",
			 progress->speed * 100);
		help = "or cancel";
	}
	if (progress->write_rate >= progress->send_rate)
		snprintf(
		    text, size,
		    "the guest%s writes to %s of memory a second and %s a second are sent, so the "
		    "rest does not become smaller: use more channels, allow a higher "
		    "bandwidth, %s",
		    slowed, written, sent, help);
	else
		snprintf(
		    text, size,
		    "what the guest%s writes while a round is sent would keep it standing still "
		    "for %.0f ms, and %.0f are allowed: allow a longer downtime, %s",
		    slowed, (double)progress->downtime_ns / NS_PER_MS,
		    (double)max_downtime_ns / NS_PER_MS, help);
}
