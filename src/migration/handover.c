/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The handover's table, made of handover_table.h, and the little that looks things up in it. Any
 * thread may look; a struct handover belongs to one. Nothing fails: what does not fit is an answer.
 * A peer controls which of its messages arrive when, and nothing else: an event is in range, for
 * whoever decodes messages has refused unknown ones.
 */
#include "migration/handover.h"

#include <assert.h>
#include <stdio.h>

static const struct {
	const char *name;
	const char *text;
	enum handover_side side;
	enum handover_guest guest;
	bool keeps_memory;
} states[HANDOVER_STATES] = {
#define KEPT  true
#define FREED false
#define S_STATE(state, runs, memory, says)                                                         \
	[HANDOVER_S_##state] = {#state, says, HANDOVER_SOURCE, HANDOVER_GUEST_##runs, memory},
#define D_STATE(state, runs, memory, says)                                                         \
	[HANDOVER_D_##state] = {#state, says, HANDOVER_DESTINATION, HANDOVER_GUEST_##runs, memory},
#include "migration/handover_table.h"
};

static const struct {
	const char *name;
	const char *text;
	enum handover_class class;
} events[HANDOVER_EVENTS] = {
#define EVENT(event, kind, says) [HANDOVER_EVENT_##event] = {#event, says, HANDOVER_##kind},
#include "migration/handover_table.h"
};

static const struct {
	const char *name;
	const char *text;
} actions[HANDOVER_ACTIONS] = {
#define ACTION(action, says) [HANDOVER_##action] = {#action, says},
#include "migration/handover_table.h"
};

/* A rule that is given twice does not compile (-Woverride-init); one that is missing fails a test. */
static const struct handover_rule rules[HANDOVER_STATES][HANDOVER_EVENTS] = {
#define GOES(side, state, event, following, first, second)                                         \
	[HANDOVER_##side##_##state][HANDOVER_EVENT_##event] = {                                    \
	    .verdict = HANDOVER_GOES,                                                              \
	    .next = HANDOVER_##side##_##following,                                                 \
	    .actions = {HANDOVER_##first, HANDOVER_##second},                                      \
	},
#define TELLS(side, state, event, says)                                                            \
	[HANDOVER_##side##_##                                                                      \
	    state][HANDOVER_EVENT_##event] = {.verdict = HANDOVER_TELLS, .why = (says)},
#define NEVER(side, state, event)                                                                  \
	[HANDOVER_##side##_##state][HANDOVER_EVENT_##event] = {.verdict = HANDOVER_NEVER},
#define S_GOES(...)  GOES(S, __VA_ARGS__)
#define D_GOES(...)  GOES(D, __VA_ARGS__)
#define S_TELLS(...) TELLS(S, __VA_ARGS__)
#define D_TELLS(...) TELLS(D, __VA_ARGS__)
#define S_NEVER(...) NEVER(S, __VA_ARGS__)
#define D_NEVER(...) NEVER(D, __VA_ARGS__)
#include "migration/handover_table.h"
};

void handover_init(struct handover *handover, enum handover_side side)
{
	handover->side = side;
	handover->state = side == HANDOVER_SOURCE ? HANDOVER_S_COPYING : HANDOVER_D_RECEIVING;
}

const struct handover_rule *handover_rule(enum handover_state state, enum handover_event event)
{
	assert(state < HANDOVER_STATES && event < HANDOVER_EVENTS);
	return &rules[state][event];
}

const struct handover_rule *handover_take(struct handover *handover, enum handover_event event)
{
	const struct handover_rule *rule = handover_rule(handover->state, event);

	if (rule->verdict == HANDOVER_GOES)
		handover->state = rule->next;
	return rule;
}

enum handover_side handover_side_of(enum handover_state state)
{
	return states[state].side;
}

enum handover_guest handover_guest(enum handover_state state)
{
	return states[state].guest;
}

bool handover_keeps_memory(enum handover_state state)
{
	return states[state].keeps_memory;
}

bool handover_is_over(enum handover_state state)
{
	return state == HANDOVER_S_STAYED || state == HANDOVER_S_GONE ||
	       state == HANDOVER_D_RUNNING || state == HANDOVER_D_DISCARDED;
}

bool handover_needs_operator(enum handover_state state)
{
	return handover_rule(state, HANDOVER_EVENT_LINK_UP)->verdict == HANDOVER_GOES &&
	       (handover_rule(state, HANDOVER_EVENT_RESUME_HERE)->verdict == HANDOVER_GOES ||
		handover_rule(state, HANDOVER_EVENT_GIVE_UP)->verdict == HANDOVER_GOES);
}

const char *handover_state_name(enum handover_state state)
{
	return states[state].name;
}

const char *handover_state_text(enum handover_state state)
{
	return states[state].text;
}

const char *handover_event_name(enum handover_event event)
{
	return events[event].name;
}

const char *handover_event_text(enum handover_event event)
{
	return events[event].text;
}

enum handover_class handover_event_class(enum handover_event event)
{
	return events[event].class;
}

const char *handover_action_name(enum handover_action action)
{
	return actions[action].name;
}

const char *handover_action_text(enum handover_action action)
{
	return actions[action].text;
}

void handover_refusal(enum handover_state state, enum handover_event event, char *text, size_t size)
{
	const struct handover_rule *rule = handover_rule(state, event);
	const char *what = "this side takes no";

	if (!size)
		return;
	text[0] = '\0';
	if (rule->verdict == HANDOVER_GOES)
		return;
	if (rule->verdict == HANDOVER_TELLS) {
		snprintf(text, size, "%s", rule->why);
		return;
	}
	if (rule->verdict == HANDOVER_NEVER)
		what = "protocol error:";
	snprintf(text, size, "%s %s (%s) while the state is %s (%s)", what, events[event].name,
		 events[event].text, states[state].name, states[state].text);
}
