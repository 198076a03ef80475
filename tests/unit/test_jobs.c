/* SPDX-License-Identifier: BSD-2-Clause */
/* Jobs in general, and the resize job as the guest moves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/checked.h"
#include "control/resize_job.h"
#include "fake_machine.h"

struct fixture {
	struct event_loop *loop;
	struct jobs *jobs;
	struct resizer *resizer;
	struct machine *machine;
	char log[512]; /* "id status;" for each change */
};

static void job_changed(void *context, const struct job *job)
{
	struct fixture *fixture = context;
	size_t used = strlen(fixture->log);

	snprintf(fixture->log + used, sizeof(fixture->log) - used, "%s %s;", job->id,
		 job_status_name(job->status));
}

static void ignore_event(void *context, const char *event, json_t *data)
{
}

static int set_up(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	assert_null(event_loop_create(&fixture->loop));
	assert_null(jobs_create(job_changed, fixture, &fixture->jobs));
	assert_null(resizer_create(fixture->loop, fixture->jobs, &fixture->resizer));
	fixture->machine = fake_machine_create(fixture->loop, ignore_event, NULL);
	*state = fixture;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *fixture = *state;

	resizer_destroy(fixture->resizer);
	jobs_destroy(fixture->jobs);
	fake_machine_destroy(fixture->machine);
	event_loop_destroy(fixture->loop);
	free(fixture);
	return 0;
}

static struct job *resize(struct fixture *fixture, uint64_t size, const char *id)
{
	struct job *job = NULL;

	assert_null(resizer_start(fixture->resizer, machine_elastic(fixture->machine, "hot0"), size,
				  id, &job));
	return job;
}

static void check_refused(struct error *error, const char *part)
{
	assert_non_null(error);
	if (!strstr(error_message(error), part))
		fail_msg("'%s' does not hold '%s'", error_message(error), part);
	error_free(error);
}

static void resize_ends_when_the_guest_has_plugged_all(void **state)
{
	struct fixture *fixture = *state;
	struct job *job = resize(fixture, MIB(64), "grow");

	fake_guest_plugs(fixture->machine, 0, MIB(62));
	resizer_update(fixture->resizer);
	assert_int_equal(job->status, JOB_RUNNING);
	assert_int_equal(job->current, MIB(62));
	assert_int_equal(job->total, MIB(64));
	fake_guest_plugs(fixture->machine, 0, MIB(64));
	resizer_update(fixture->resizer);
	assert_int_equal(job->status, JOB_CONCLUDED);
	assert_false(job->failed);
	assert_null(job->error);
	assert_string_equal(fixture->log, "grow created;grow running;grow concluded;");
}

static void shrinking_counts_from_where_it_began(void **state)
{
	struct fixture *fixture = *state;
	struct job *job;

	fake_guest_plugs(fixture->machine, 0, MIB(100));
	job = resize(fixture, MIB(20), NULL);
	fake_guest_plugs(fixture->machine, 0, MIB(50));
	resizer_update(fixture->resizer);
	assert_int_equal(job->total, MIB(80));
	assert_int_equal(job->current, MIB(50));
}

static void resize_to_the_present_size_ends_at_once(void **state)
{
	assert_int_equal(resize(*state, 0, NULL)->status, JOB_CONCLUDED);
}

static void newer_request_replaces_the_job(void **state)
{
	struct fixture *fixture = *state;
	struct job *first = resize(fixture, MIB(64), NULL);
	struct job *second = resize(fixture, MIB(32), NULL);

	assert_int_equal(first->status, JOB_CONCLUDED);
	assert_non_null(strstr(first->error, "replaced"));
	assert_int_equal(second->status, JOB_RUNNING);
}

static void request_from_elsewhere_replaces_the_job(void **state)
{
	struct fixture *fixture = *state;
	struct job *job = resize(fixture, MIB(64), NULL);

	assert_null(virtio_mem_request(machine_elastic(fixture->machine, "hot0"), MIB(2)));
	resizer_update(fixture->resizer);
	assert_int_equal(job->status, JOB_CONCLUDED);
	assert_non_null(strstr(job->error, "replaced"));
}

static void reason_is_told_in_full_and_as_text(void **state)
{
	struct fixture *fixture = *state;
	struct job *job = resize(fixture, MIB(64), NULL);
	char reason[5000];
	json_t *jobs;

	memset(reason, 'x', sizeof(reason));
	memcpy(reason, "\xff/", 2);
	memcpy(reason + sizeof(reason) - 4, "end", 4);
	job_conclude(job, reason);
	jobs = jobs_describe(fixture->jobs);
	reason[0] = '?';
	assert_string_equal(json_string_value(json_object_get(json_array_get(jobs, 0), "error")),
			    reason);
	json_decref(jobs);
}

static void refused_size_starts_no_job_and_changes_nothing(void **state)
{
	struct fixture *fixture = *state;
	struct job *running = resize(fixture, MIB(64), NULL);
	struct job *job = NULL;

	check_refused(resizer_start(fixture->resizer, machine_elastic(fixture->machine, "hot0"),
				    MIB(3), NULL, &job),
		      "does not fit");
	assert_int_equal(running->status, JOB_RUNNING);
	assert_ptr_equal(jobs_first(fixture->jobs), running);
}

static void id_in_use_changes_nothing(void **state)
{
	struct fixture *fixture = *state;
	struct job *running = resize(fixture, MIB(64), "same");
	struct job *job = NULL;

	check_refused(resizer_start(fixture->resizer, machine_elastic(fixture->machine, "hot0"),
				    MIB(32), "same", &job),
		      "in use");
	assert_int_equal(fake(fixture->machine)->elastic[0].status.requested, MIB(64));
	assert_int_equal(running->status, JOB_RUNNING);
}

static void malformed_id_is_refused(void **state)
{
	struct fixture *fixture = *state;
	struct job *job = NULL;

	check_refused(resizer_start(fixture->resizer, machine_elastic(fixture->machine, "hot0"), 0,
				    "a b", &job),
		      "letters");
}

static void cancelling_keeps_what_is_plugged(void **state)
{
	struct fixture *fixture = *state;
	struct job *job = resize(fixture, MIB(64), NULL);

	fake_guest_plugs(fixture->machine, 0, MIB(10));
	assert_null(job_cancel(job));
	assert_int_equal(fake(fixture->machine)->elastic[0].status.requested, MIB(10));
	assert_int_equal(job->status, JOB_CONCLUDED);
	assert_string_equal(job->error, "cancelled");
	check_refused(job_cancel(job), "concluded already");
}

static void running_job_cannot_be_dismissed(void **state)
{
	struct fixture *fixture = *state;
	struct job *job = resize(fixture, MIB(64), NULL);

	check_refused(job_dismiss(job), "cancel it first");
	assert_null(job_cancel(job));
	assert_null(job_dismiss(job));
	assert_null(jobs_first(fixture->jobs));
}

static void old_concluded_jobs_make_room(void **state)
{
	struct fixture *fixture = *state;
	struct job *job = NULL;
	json_t *list;

	for (int i = 0; i < JOBS_MAX + 5; i++)
		resize(fixture, 0, NULL);
	list = jobs_describe(fixture->jobs);
	assert_int_equal(json_array_size(list), JOBS_MAX);
	json_decref(list);
	check_refused(jobs_find(fixture->jobs, "resize-hot0-1", &job), "no job");
	assert_null(jobs_find(fixture->jobs, "resize-hot0-100", &job));
}

static void description_says_why_it_is_not_done(void **state)
{
	struct fixture *fixture = *state;
	json_t *list, *object;

	resize(fixture, MIB(64), NULL);
	fake(fixture->machine)->elastic[0].status.reason = VIRTIO_MEM_NO_DRIVER;
	resizer_update(fixture->resizer);
	list = jobs_describe(fixture->jobs);
	object = json_array_get(list, 0);
	assert_string_equal(json_string_value(json_object_get(object, "reason")), "no-driver");
	assert_string_equal(json_string_value(json_object_get(object, "status")), "running");
	assert_int_equal(json_integer_value(json_object_get(object, "requested")), MIB(64));
	assert_int_equal(json_integer_value(json_object_get(object, "total-progress")), MIB(64));
	json_decref(list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(resize_ends_when_the_guest_has_plugged_all, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(shrinking_counts_from_where_it_began, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(resize_to_the_present_size_ends_at_once, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(newer_request_replaces_the_job, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(request_from_elsewhere_replaces_the_job, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(reason_is_told_in_full_and_as_text, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(refused_size_starts_no_job_and_changes_nothing, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(id_in_use_changes_nothing, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(malformed_id_is_refused, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(cancelling_keeps_what_is_plugged, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(running_job_cannot_be_dismissed, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(old_concluded_jobs_make_room, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(description_says_why_it_is_not_done, set_up, tear_down),
	};

	return cmocka_run_group_tests_name("jobs", tests, NULL, NULL);
}
