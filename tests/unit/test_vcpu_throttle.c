/* SPDX-License-Identifier: BSD-2-Clause */
/* Which processors are slowed, and by how much. */
#include "cmocka_prelude.h"

#include "kvm/vcpu_throttle.h"

static bool about(double a, double b)
{
	return a > b * 0.999 && a < b * 1.001;
}

static void one_processor_writes_what_it_is_told(void **unused)
{
	const uint64_t written[] = {1000};
	double parts[1];

	vcpu_throttle_divide(written, 1, 0.25, parts);
	assert_true(about(parts[0], 0.25));
}

static void who_does_not_write_is_not_slowed(void **unused)
{
	const uint64_t written[] = {1000, 0, 10, 0};
	double parts[4];

	vcpu_throttle_divide(written, 4, 0.5, parts);
	assert_true(about(parts[0], 0.495));
	assert_true(parts[1] == 1 && parts[2] == 1 && parts[3] == 1);
}

static void who_writes_most_is_slowed_to_what_others_write(void **unused)
{
	const uint64_t written[] = {600, 300, 100};
	double parts[3], sum = 0;

	vcpu_throttle_divide(written, 3, 0.5, parts);
	for (int i = 0; i < 3; i++)
		sum += parts[i] * (double)written[i];
	assert_true(about(sum, 500));
	assert_true(about(parts[0] * 600, parts[1] * 300));
	assert_true(parts[2] == 1);
}

static void all_alike_are_slowed_alike(void **unused)
{
	const uint64_t written[] = {500, 500, 500, 500};
	double parts[4];

	vcpu_throttle_divide(written, 4, 0.1, parts);
	for (int i = 0; i < 4; i++)
		assert_true(about(parts[i], 0.1));
}

static void nobody_is_slowed_for_nothing(void **unused)
{
	const uint64_t written[] = {500, 1};
	const uint64_t nothing[] = {0, 0};
	double parts[2];

	vcpu_throttle_divide(written, 2, 1, parts);
	assert_true(about(parts[0], 1) && parts[1] == 1);
	vcpu_throttle_divide(nothing, 2, 0.1, parts);
	assert_true(parts[0] == 1 && parts[1] == 1);
}

static void what_processors_write_is_known_when_it_explains_most_pages(void **unused)
{
	const uint64_t written[] = {300, 0, 200}, nothing[] = {0, 0, 0};

	assert_true(vcpu_throttle_explains(written, 3, 500));
	assert_true(vcpu_throttle_explains(written, 3, 1000)); /* half of it may be devices' */
	assert_false(vcpu_throttle_explains(written, 3, 1002));
	assert_false(vcpu_throttle_explains(nothing, 3, 1000));
	assert_false(vcpu_throttle_explains(nothing, 3, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(one_processor_writes_what_it_is_told),
	    cmocka_unit_test(who_does_not_write_is_not_slowed),
	    cmocka_unit_test(who_writes_most_is_slowed_to_what_others_write),
	    cmocka_unit_test(all_alike_are_slowed_alike),
	    cmocka_unit_test(nobody_is_slowed_for_nothing),
	    cmocka_unit_test(what_processors_write_is_known_when_it_explains_most_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
