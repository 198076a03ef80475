/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The handover: its table is complete and consistent, and two machines that are joined by a
 * connection which breaks, between hosts which die, keep what docs/migration-handover.md promises.
 * tests/model explores the same exhaustively; here the compiled code is driven, at random.
 */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "cmocka_prelude.h"
#include "migration/handover.h"

/* Whether a machine of @side can see @event at all. */
static bool belongs(enum handover_side side, enum handover_event event)
{
	switch (event) {
	case HANDOVER_EVENT_LINK_LOST:
	case HANDOVER_EVENT_LINK_UP:
	case HANDOVER_EVENT_FAILED:
	case HANDOVER_EVENT_RESUME_HERE:
	case HANDOVER_EVENT_GIVE_UP:
		return true;
	case HANDOVER_EVENT_LOADED:
	case HANDOVER_EVENT_RUNNING:
	case HANDOVER_EVENT_RUNNING_LACKING:
	case HANDOVER_EVENT_REJECTED:
	case HANDOVER_EVENT_SWITCH:
	case HANDOVER_EVENT_CANCEL:
		return side == HANDOVER_SOURCE;
	default:
		return side == HANDOVER_DESTINATION;
	}
}

static bool acts(const struct handover_rule *rule, enum handover_action action)
{
	for (int i = 0; i < HANDOVER_RULE_ACTIONS; i++) {
		if (rule->actions[i] == action)
			return true;
	}
	return false;
}

/* Calls @check for each rule that leads somewhere. */
static void for_each_step(void (*check)(enum handover_state state, enum handover_event event,
					const struct handover_rule *rule))
{
	for (int state = 0; state < HANDOVER_STATES; state++) {
		for (int event = 0; event < HANDOVER_EVENTS; event++) {
			const struct handover_rule *rule = handover_rule(state, event);

			if (rule->verdict == HANDOVER_GOES)
				check(state, event, rule);
		}
	}
}

static void test_every_event_has_a_rule_in_every_state(void **unused)
{
	for (int state = 0; state < HANDOVER_STATES; state++) {
		for (int event = 0; event < HANDOVER_EVENTS; event++) {
			const struct handover_rule *rule = handover_rule(state, event);
			bool foreign = !belongs(handover_side_of(state), event);

			if (foreign != (rule->verdict == HANDOVER_FOREIGN))
				fail_msg("%s in %s", handover_event_name(event),
					 handover_state_name(state));
		}
	}
}

static void test_operators_are_never_refused_without_a_word(void **unused)
{
	for (int state = 0; state < HANDOVER_STATES; state++) {
		for (int event = 0; event < HANDOVER_EVENTS; event++) {
			if (handover_event_class(event) != HANDOVER_OPERATOR)
				continue;
			if (handover_rule(state, event)->verdict == HANDOVER_NEVER)
				fail_msg("%s in %s", handover_event_name(event),
					 handover_state_name(state));
		}
	}
}

static void check_side(enum handover_state state, enum handover_event event,
		       const struct handover_rule *rule)
{
	assert_int_equal(handover_side_of(state), handover_side_of(rule->next));
}

static void test_no_rule_changes_sides(void **unused)
{
	for_each_step(check_side);
}

static void check_guest(enum handover_state state, enum handover_event event,
			const struct handover_rule *rule)
{
	bool before = handover_guest(state) == HANDOVER_GUEST_RUNS;
	bool after = handover_guest(rule->next) == HANDOVER_GUEST_RUNS;
	bool starts = acts(rule, HANDOVER_RESUME_VM) || acts(rule, HANDOVER_START_VM);

	assert_int_equal(starts, !before && after);
	assert_int_equal(acts(rule, HANDOVER_STOP_VM), before && !after);
	if (handover_guest(state) == HANDOVER_GUEST_NEVER)
		assert_int_equal(handover_guest(rule->next), HANDOVER_GUEST_NEVER);
}

static void test_states_say_whether_the_guest_runs(void **unused)
{
	for_each_step(check_guest);
}

static void check_memory(enum handover_state state, enum handover_event event,
			 const struct handover_rule *rule)
{
	bool frees = handover_keeps_memory(state) && !handover_keeps_memory(rule->next);

	assert_int_equal(acts(rule, HANDOVER_DISCARD), frees);
	if (!handover_keeps_memory(state))
		assert_false(handover_keeps_memory(rule->next));
	if (!handover_keeps_memory(rule->next))
		assert_int_equal(handover_guest(rule->next), HANDOVER_GUEST_NEVER);
}

static void test_memory_is_freed_once_and_where_the_state_says(void **unused)
{
	for_each_step(check_memory);
}

static void check_go(enum handover_state state, enum handover_event event,
		     const struct handover_rule *rule)
{
	assert_int_equal(acts(rule, HANDOVER_SEND_GO), handover_side_of(state) == HANDOVER_SOURCE &&
							   event == HANDOVER_EVENT_LOADED &&
							   rule->next == HANDOVER_S_GO_SENT);
}

static void test_go_answers_loaded_and_nothing_else(void **unused)
{
	for_each_step(check_go);
}

static void check_order(enum handover_state state, enum handover_event event,
			const struct handover_rule *rule)
{
	/* The destination frees a copy when it hears ABORT; the guest must run by then. */
	if (acts(rule, HANDOVER_SEND_ABORT) && acts(rule, HANDOVER_RESUME_VM))
		assert_int_equal(rule->actions[0], HANDOVER_RESUME_VM);
	/* The destination takes the locks when it hears GO. */
	if (acts(rule, HANDOVER_SEND_GO) && acts(rule, HANDOVER_RELEASE))
		assert_int_equal(rule->actions[0], HANDOVER_RELEASE);
	/* A source that hears RUNNING frees its memory. */
	if (acts(rule, HANDOVER_START_VM))
		assert_int_equal(rule->actions[0], HANDOVER_START_VM);
}

static void test_deeds_come_before_words(void **unused)
{
	for_each_step(check_order);
}

static void test_a_refused_event_changes_nothing(void **unused)
{
	for (int state = 0; state < HANDOVER_STATES; state++) {
		for (int event = 0; event < HANDOVER_EVENTS; event++) {
			struct handover handover = {handover_side_of(state), state};
			const struct handover_rule *rule = handover_take(&handover, event);

			if (rule->verdict == HANDOVER_GOES)
				continue;
			assert_int_equal(handover.state, state);
			assert_int_equal(rule->actions[0], HANDOVER_NOTHING);
		}
	}
}

static void test_a_refusal_names_the_event_and_the_state(void **unused)
{
	char text[512];

	handover_refusal(HANDOVER_S_COPYING, HANDOVER_EVENT_RUNNING, text, sizeof(text));
	assert_non_null(strstr(text, "protocol error: RUNNING"));
	assert_non_null(strstr(text, "COPYING"));
	handover_refusal(HANDOVER_S_COPYING, HANDOVER_EVENT_GO, text, sizeof(text));
	assert_non_null(strstr(text, "no GO"));
	handover_refusal(HANDOVER_S_GO_SENT, HANDOVER_EVENT_CANCEL, text, sizeof(text));
	assert_non_null(strstr(text, "too late to cancel"));
}

static void test_a_refusal_is_cut_at_the_size_of_its_buffer(void **unused)
{
	char text[8] = "xxxxxxx";

	handover_refusal(HANDOVER_S_COPYING, HANDOVER_EVENT_RUNNING, text, 5);
	assert_string_equal(text, "prot");
	assert_int_equal(text[5], 'x');
}

static void test_what_fits_has_no_refusal(void **unused)
{
	char text[8] = "x";

	handover_refusal(HANDOVER_S_COPYING, HANDOVER_EVENT_SWITCH, text, sizeof(text));
	assert_string_equal(text, "");
}

static void test_operators_are_asked_where_only_they_can_know(void **unused)
{
	static const enum handover_state asked[] = {HANDOVER_S_UNDECIDED, HANDOVER_S_SERVING_CUT,
						    HANDOVER_D_HELD, HANDOVER_D_HELD_LACKING};

	for (int state = 0; state < HANDOVER_STATES; state++) {
		bool expected = false;

		for (size_t i = 0; i < ARRAY_SIZE(asked); i++)
			expected = expected || asked[i] == (enum handover_state)state;
		if (handover_needs_operator(state) != expected)
			fail_msg("%s", handover_state_name(state));
	}
}

static void check_end(enum handover_state state, enum handover_event event,
		      const struct handover_rule *rule)
{
	if (handover_is_over(state))
		assert_int_equal(rule->next, state);
}

static void test_what_is_over_stays_over(void **unused)
{
	for_each_step(check_end);
}

/* ---- stories ----------------------------------------------------------------------------------- */

/* Takes @event, which must lead to @next_state with @first (or NOTHING). */
#define assert_step(machine, event, next_state, first)                                             \
	do {                                                                                       \
		const struct handover_rule *step_ =                                                \
		    handover_take(machine, HANDOVER_EVENT_##event);                                \
		assert_int_equal(step_->verdict, HANDOVER_GOES);                                   \
		assert_int_equal((machine)->state, HANDOVER_##next_state);                         \
		assert_int_equal(step_->actions[0], HANDOVER_##first);                             \
	} while (0)

static void test_a_guest_moves_by_pre_copy(void **unused)
{
	struct handover source, destination;

	handover_init(&source, HANDOVER_SOURCE);
	handover_init(&destination, HANDOVER_DESTINATION);
	assert_step(&source, SWITCH, S_SWITCHING, STOP_VM);
	assert_step(&destination, SWITCH_BEGIN, D_LOADING, NOTHING);
	assert_step(&destination, ALL_LOADED, D_LOADED, SEND_LOADED);
	assert_step(&source, LOADED, S_GO_SENT, RELEASE);
	assert_step(&destination, GO, D_STARTING, TAKE_OVER);
	assert_step(&destination, TAKEN, D_RUNNING, START_VM);
	assert_step(&source, RUNNING, S_GONE, DISCARD);
}

static void test_a_guest_moves_by_post_copy_over_a_connection_that_breaks(void **unused)
{
	struct handover source, destination;

	handover_init(&source, HANDOVER_SOURCE);
	handover_init(&destination, HANDOVER_DESTINATION);
	assert_step(&source, SWITCH, S_SWITCHING, STOP_VM);
	assert_step(&destination, SWITCH_BEGIN, D_LOADING, NOTHING);
	assert_step(&destination, LOADED_BUT_PAGES, D_LOADED_LACKING, SEND_LOADED);
	assert_step(&source, LOADED, S_GO_SENT, RELEASE);
	assert_step(&destination, GO, D_STARTING_LACKING, TAKE_OVER);
	assert_step(&destination, TAKEN, D_RUNNING_LACKING, START_VM);
	assert_step(&source, RUNNING_LACKING, S_SERVING, SERVE_PAGES);
	assert_step(&destination, LINK_LOST, D_RUNNING_LACKING_CUT, HOLD_FAULTS);
	assert_step(&source, LINK_LOST, S_SERVING_CUT, NOTHING);
	assert_step(&destination, LINK_UP, D_RUNNING_LACKING, SEND_RUNNING_LACKING);
	assert_step(&source, LINK_UP, S_REJOINING, NOTHING);
	assert_step(&source, RUNNING_LACKING, S_SERVING, SERVE_PAGES);
	assert_step(&destination, ALL_PAGES, D_RUNNING, SEND_RUNNING);
	assert_step(&source, RUNNING, S_GONE, DISCARD);
}

static void test_a_lost_answer_leaves_the_source_undecided_until_it_asks(void **unused)
{
	struct handover source;

	handover_init(&source, HANDOVER_SOURCE);
	assert_step(&source, SWITCH, S_SWITCHING, STOP_VM);
	assert_step(&source, LOADED, S_GO_SENT, RELEASE);
	assert_step(&source, LINK_LOST, S_UNDECIDED, NOTHING);
	assert_step(&source, LINK_UP, S_ASKING, NOTHING);
	assert_step(&source, REJECTED, S_STAYED, RESUME_VM);
}

/* ---- at random --------------------------------------------------------------------------------- */

enum {
	QUEUE = 4,
	RUNS = 40000,
};

/* One direction of a connection: what was sent and not yet read. */
struct queue {
	enum handover_event messages[QUEUE];
	size_t count;
};

/* The world of the model, see tests/model/handover.pml for the meaning of what is alike named. */
struct world {
	uint64_t random;
	struct handover machine[2];
	struct queue queue[2]; /* to the source, to the destination */
	bool link[2], alive[2], runs[2], old[2];
	bool connecting, calm;
	bool source_copy, destination_state, destination_whole;
	bool go_sent, answered, must_live;
	bool saw[2]; /* an operator at that side has seen that the guest is not at the other */
	unsigned int failures;
};

#define S HANDOVER_SOURCE
#define D HANDOVER_DESTINATION

/* Rules that were used, over all runs. */
static bool used[HANDOVER_STATES][HANDOVER_EVENTS];

static uint64_t draw(struct world *world, uint64_t below)
{
	world->random ^= world->random << 13;
	world->random ^= world->random >> 7;
	world->random ^= world->random << 17;
	return (world->random >> 11) % below;
}

static bool is(const struct world *world, enum handover_state state)
{
	return world->machine[handover_side_of(state)].state == state;
}

static bool fits(const struct world *world, enum handover_side side, enum handover_event event)
{
	return handover_rule(world->machine[side].state, event)->verdict == HANDOVER_GOES;
}

static void send_message(struct world *world, enum handover_side from, enum handover_event message)
{
	enum handover_side to = from == S ? D : S;
	struct queue *queue = &world->queue[to];

	if (!world->link[from] || !(world->link[to] || (to == S && world->connecting)))
		return;
	assert_true(queue->count < QUEUE);
	queue->messages[queue->count++] = message;
}

static void start(struct world *world, enum handover_side side)
{
	assert_false(world->old[side]);
	world->runs[side] = true;
	world->old[side == S ? D : S] = true;
	assert_false(world->runs[S] && world->runs[D]);
}

static void act(struct world *world, enum handover_side side, enum handover_action action)
{
	switch (action) {
	case HANDOVER_STOP_VM:
		world->runs[side] = false;
		break;
	case HANDOVER_RESUME_VM:
	case HANDOVER_START_VM:
		start(world, side);
		break;
	case HANDOVER_DISCARD:
		if (side == S)
			world->source_copy = false;
		else
			world->destination_state = world->destination_whole = false;
		break;
	case HANDOVER_SEND_SWITCH_BEGIN:
		send_message(world, side, HANDOVER_EVENT_SWITCH_BEGIN);
		break;
	case HANDOVER_SEND_GO:
		world->go_sent = true;
		world->answered = false;
		send_message(world, side, HANDOVER_EVENT_GO);
		break;
	case HANDOVER_SEND_ABORT:
		send_message(world, side, HANDOVER_EVENT_ABORT);
		break;
	case HANDOVER_SEND_LOADED:
		send_message(world, side, HANDOVER_EVENT_LOADED);
		break;
	case HANDOVER_SEND_RUNNING:
		send_message(world, side, HANDOVER_EVENT_RUNNING);
		break;
	case HANDOVER_SEND_RUNNING_LACKING:
		send_message(world, side, HANDOVER_EVENT_RUNNING_LACKING);
		break;
	case HANDOVER_SEND_REJECTED:
		send_message(world, side, HANDOVER_EVENT_REJECTED);
		break;
	default:
		break;
	}
}

/* In a world that keeps the rules nothing is ever refused. */
static void take(struct world *world, enum handover_side side, enum handover_event event)
{
	enum handover_state state = world->machine[side].state;
	const struct handover_rule *rule = handover_take(&world->machine[side], event);

	if (rule->verdict != HANDOVER_GOES)
		fail_msg("%s is refused in %s", handover_event_name(event),
			 handover_state_name(state));
	used[state][event] = true;
	if (rule->next != state)
		world->saw[side] = false;
	for (int i = 0; i < HANDOVER_RULE_ACTIONS; i++)
		act(world, side, rule->actions[i]);
}

static bool good(const struct world *world, enum handover_side side)
{
	return world->alive[side] && !world->old[side] &&
	       (side == S ? world->source_copy : world->destination_whole);
}

static void check_promises(const struct world *world)
{
	bool both = world->alive[S] && world->alive[D];

	assert_false(world->runs[S] && world->runs[D]);
	if (both && !good(world, S) && !good(world, D))
		assert_true(world->source_copy && world->destination_state && !world->old[D]);
	if (world->alive[S] && !world->alive[D] && !world->old[S])
		assert_true(good(world, S));
	if (world->must_live && world->alive[D])
		assert_true(good(world, D));
	if (world->alive[S] && (is(world, HANDOVER_S_UNDECIDED) || is(world, HANDOVER_S_ASKING)))
		assert_true(world->go_sent && !world->answered);
	for (int side = 0; side < 2; side++) {
		if (world->alive[side])
			assert_int_equal(world->runs[side],
					 handover_guest(world->machine[side].state) ==
					     HANDOVER_GUEST_RUNS);
	}
}

static bool receive(struct world *world, enum handover_side side)
{
	struct queue *queue = &world->queue[side];
	enum handover_event message;

	if (!world->alive[side] || !world->link[side] || !queue->count)
		return false;
	message = queue->messages[0];
	memmove(queue->messages, queue->messages + 1, --queue->count * sizeof(message));
	if (side == S && message != HANDOVER_EVENT_LOADED)
		world->answered = true;
	take(world, side, message);
	return true;
}

static bool lose(struct world *world, enum handover_side side)
{
	enum handover_side other = side == S ? D : S;
	bool closed = !world->link[other] && !(other == S && world->connecting);

	if (!world->alive[side] || !world->link[side] ||
	    (world->calm && (!closed || world->queue[side].count)))
		return false;
	world->link[side] = false;
	world->queue[side].count = 0;
	take(world, side, HANDOVER_EVENT_LINK_LOST);
	return true;
}

/* The destination answers a new connection; then the source hears of it, or not. */
static bool join(struct world *world)
{
	bool wants = world->alive[S] && fits(world, S, HANDOVER_EVENT_LINK_UP);

	if (world->connecting) {
		world->connecting = false;
		if (wants && world->link[D] && (world->calm || draw(world, 4))) {
			world->link[S] = true;
			take(world, S, HANDOVER_EVENT_LINK_UP);
		} else {
			world->queue[S].count = 0;
		}
		return true;
	}
	if (!wants || !world->alive[D] || world->link[S] || world->link[D])
		return false;
	world->connecting = world->link[D] = true;
	take(world, D, HANDOVER_EVENT_LINK_UP);
	return true;
}

/* What a side does of itself, if it has anything to do. */
static bool work(struct world *world, enum handover_side side)
{
	static const enum handover_event works[] = {
	    HANDOVER_EVENT_SWITCH, HANDOVER_EVENT_ALL_LOADED, HANDOVER_EVENT_LOADED_BUT_PAGES,
	    HANDOVER_EVENT_ALL_PAGES, HANDOVER_EVENT_TAKEN};
	enum handover_event event = works[draw(world, ARRAY_SIZE(works))];

	if (!world->alive[side] || !fits(world, side, event))
		return false;
	if (event == HANDOVER_EVENT_ALL_PAGES && !world->source_copy)
		return false;
	if (event == HANDOVER_EVENT_ALL_LOADED || event == HANDOVER_EVENT_LOADED_BUT_PAGES)
		world->destination_state = true;
	if (event == HANDOVER_EVENT_ALL_LOADED || event == HANDOVER_EVENT_ALL_PAGES)
		world->destination_whole = true;
	take(world, side, event);
	return true;
}

static bool trouble(struct world *world)
{
	enum handover_side side = draw(world, 2);

	if (world->calm || !world->alive[side])
		return false;
	switch (draw(world, 8)) {
	case 0:
		if (!fits(world, side, HANDOVER_EVENT_FAILED) || !world->failures)
			return false;
		world->failures--;
		take(world, side, HANDOVER_EVENT_FAILED);
		return true;
	case 1:
		if (!fits(world, side, HANDOVER_EVENT_CANCEL))
			return false;
		take(world, side, HANDOVER_EVENT_CANCEL);
		return true;
	case 2:
		if (draw(world, 4))
			return false;
		if (side == S)
			world->must_live = good(world, D);
		world->alive[side] = world->runs[side] = world->link[side] = false;
		return true;
	case 3:
		world->calm = true;
		return true;
	default:
		return lose(world, side);
	}
}

/* The rules for operators, as docs/migration-handover.md gives them. */
static bool operator_at_source(struct world *world)
{
	bool safe = world->alive[D]
			? is(world, HANDOVER_D_HELD) || is(world, HANDOVER_D_HELD_LACKING) ||
			      is(world, HANDOVER_D_DISCARDED)
			: !world->old[S];
	bool over_there = is(world, HANDOVER_D_RUNNING) || (!world->alive[D] && world->old[S]);

	if (!world->alive[S])
		return false;
	if (is(world, HANDOVER_S_SERVING_CUT) &&
	    (!world->alive[D] || is(world, HANDOVER_D_RUNNING))) {
		take(world, S, HANDOVER_EVENT_GIVE_UP);
		return true;
	}
	if (!is(world, HANDOVER_S_UNDECIDED))
		return false;
	if (world->saw[S]) {
		world->saw[D] = false;
		take(world, S, HANDOVER_EVENT_RESUME_HERE);
		return true;
	}
	if (over_there)
		take(world, S, HANDOVER_EVENT_GIVE_UP);
	world->saw[S] = safe;
	return over_there || safe;
}

static bool operator_at_destination(struct world *world)
{
	bool safe = world->alive[S] ? is(world, HANDOVER_S_UNDECIDED) : !world->old[D];

	if (!world->alive[D])
		return false;
	if (is(world, HANDOVER_D_HELD) && world->saw[D]) {
		world->saw[S] = false;
		take(world, D, HANDOVER_EVENT_RESUME_HERE);
		return true;
	}
	if (is(world, HANDOVER_D_HELD) && safe && draw(world, 2)) {
		world->saw[D] = true;
		return true;
	}
	if (world->calm || !world->alive[S] || is(world, HANDOVER_S_GONE) || draw(world, 8) ||
	    !fits(world, D, HANDOVER_EVENT_GIVE_UP))
		return false;
	take(world, D, HANDOVER_EVENT_GIVE_UP);
	return true;
}

static bool step(struct world *world)
{
	enum handover_side side = draw(world, 2);

	switch (draw(world, 12)) {
	case 0:
		return trouble(world);
	case 1:
		return operator_at_source(world);
	case 2:
		return operator_at_destination(world);
	case 3:
	case 4:
		return join(world);
	case 5:
		return world->calm && lose(world, side);
	case 6:
	case 7:
	case 8:
		return work(world, side);
	default:
		return receive(world, side);
	}
}

static void run_world(uint64_t seed)
{
	struct world world = {
	    .random = seed,
	    .link = {true, true},
	    .alive = {true, true},
	    .runs = {true, false},
	    .source_copy = true,
	    .failures = 2,
	};
	int idle = 0;

	handover_init(&world.machine[S], S);
	handover_init(&world.machine[D], D);
	/* Idle for so long that nothing is left to do. */
	for (int i = 0; i < 3000 && idle < 300; i++) {
		idle = step(&world) ? 0 : idle + 1;
		check_promises(&world);
	}
	world.calm = true;
	for (idle = 0; idle < 300;) {
		idle = step(&world) ? 0 : idle + 1;
		check_promises(&world);
	}
	/* In a calm world all is settled, and nothing is left over. */
	if (world.alive[S] && world.alive[D]) {
		assert_true(world.runs[S] != world.runs[D]);
		assert_true(is(&world, world.runs[S] ? HANDOVER_D_DISCARDED : HANDOVER_S_GONE));
		assert_true(good(&world, world.runs[S] ? S : D));
	}
}

static void test_promises_hold_in_random_worlds(void **unused)
{
	const uint64_t seed = 0x9e3779b97f4a7c15u;

	memset(used, 0, sizeof(used));
	for (uint64_t i = 1; i <= RUNS; i++)
		run_world(seed * i);
	for (int state = 0; state < HANDOVER_STATES; state++) {
		for (int event = 0; event < HANDOVER_EVENTS; event++) {
			if (handover_rule(state, event)->verdict == HANDOVER_GOES &&
			    !used[state][event])
				fail_msg("no world came to %s in %s", handover_event_name(event),
					 handover_state_name(state));
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_every_event_has_a_rule_in_every_state),
	    cmocka_unit_test(test_operators_are_never_refused_without_a_word),
	    cmocka_unit_test(test_no_rule_changes_sides),
	    cmocka_unit_test(test_states_say_whether_the_guest_runs),
	    cmocka_unit_test(test_memory_is_freed_once_and_where_the_state_says),
	    cmocka_unit_test(test_go_answers_loaded_and_nothing_else),
	    cmocka_unit_test(test_deeds_come_before_words),
	    cmocka_unit_test(test_a_refused_event_changes_nothing),
	    cmocka_unit_test(test_a_refusal_names_the_event_and_the_state),
	    cmocka_unit_test(test_a_refusal_is_cut_at_the_size_of_its_buffer),
	    cmocka_unit_test(test_what_fits_has_no_refusal),
	    cmocka_unit_test(test_operators_are_asked_where_only_they_can_know),
	    cmocka_unit_test(test_what_is_over_stays_over),
	    cmocka_unit_test(test_a_guest_moves_by_pre_copy),
	    cmocka_unit_test(test_a_guest_moves_by_post_copy_over_a_connection_that_breaks),
	    cmocka_unit_test(test_a_lost_answer_leaves_the_source_undecided_until_it_asks),
	    cmocka_unit_test(test_promises_hold_in_random_worlds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
