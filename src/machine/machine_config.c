/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The rules of machine_config.h. Runs once, on the main thread, before anything exists; the
 * operator controls all input. Everything here is refused with a usage error, nothing is corrected
 * silently.
 */
#include "machine/machine_config.h"

#include <ctype.h>
#include <string.h>

#include "base/checked.h"
#include "base/size.h"
#include "kvm/cpu_model.h"

#define PAGE_SIZE_4K KIB(4)

struct error *machine_identifier_check(const char *what, const char *text, size_t maximum)
{
	size_t length = strlen(text);

	if (!length)
		return error_usage("%s is empty", what);
	if (length > maximum)
		return error_usage("%s '%s' is too long: at most %zu characters", what, text,
				   maximum);
	if (text[0] == '.' || text[0] == '-')
		return error_usage("%s '%s' starts with '%c': start with a letter or a digit", what,
				   text, text[0]);
	for (size_t i = 0; i < length; i++)
		if (!isalnum((unsigned char)text[i]) && !strchr("._-", text[i]))
			return error_usage("%s '%s': use only letters, digits, '.', '_' and '-'",
					   what, text);
	return NULL;
}

/* @value, described as @what, must be a multiple of @unit, described as @unit_name. */
static struct error *check_multiple(const char *what, uint64_t value, const char *unit_name,
				    uint64_t unit)
{
	char text[SIZE_TEXT_MAX], unit_text[SIZE_TEXT_MAX], near_text[SIZE_TEXT_MAX];
	uint64_t near = 0;

	if (is_aligned(value, unit))
		return NULL;
	if (!checked_align_up(value, unit, &near))
		near = align_down(value, unit);
	return error_usage("%s %s is not a multiple of the %s %s: %s would be", what,
			   size_format(value, text), unit_name, size_format(unit, unit_text),
			   size_format(near, near_text));
}

static struct error *check_node(uint32_t node)
{
	if (node >= MACHINE_NODES_MAX)
		return error_usage("node=%u is too large: at most %d", node, MACHINE_NODES_MAX - 1);
	return NULL;
}

static struct error *check_memory(const struct machine_memory *memory)
{
	uint64_t page = ram_backing_page_size(&memory->backing);

	if (!memory->size)
		return error_usage("the size is zero");
	TRY(check_node(memory->node));
	return check_multiple("size", memory->size, "page size", MAX(page, PAGE_SIZE_4K));
}

static struct error *check_auto(const struct machine_elastic *elastic)
{
	char minimum[SIZE_TEXT_MAX], maximum[SIZE_TEXT_MAX];

	TRY(check_multiple("the minimum of auto=", elastic->auto_minimum, "block size",
			   elastic->block));
	TRY(check_multiple("the maximum of auto=", elastic->auto_maximum, "block size",
			   elastic->block));
	size_format(elastic->auto_minimum, minimum);
	size_format(elastic->auto_maximum, maximum);
	if (elastic->auto_minimum > elastic->auto_maximum)
		return error_usage("auto=%s..%s: the minimum is larger than the maximum", minimum,
				   maximum);
	if (elastic->auto_maximum > elastic->maximum)
		return error_usage(
		    "auto=%s..%s goes beyond max=: raise max= or lower auto=", minimum, maximum);
	return NULL;
}

static struct error *check_elastic(struct machine_elastic *elastic)
{
	uint64_t page = ram_backing_page_size(&elastic->backing);
	char text[SIZE_TEXT_MAX], other[SIZE_TEXT_MAX];

	if (!elastic->block)
		elastic->block = MAX(page, MACHINE_BLOCK_DEFAULT);
	TRY(check_node(elastic->node));
	if (!is_power_of_two(elastic->block))
		return error_usage("block=%s is not a power of two",
				   size_format(elastic->block, text));
	if (elastic->block < page)
		return error_usage("block=%s is smaller than a page of the backing, %s",
				   size_format(elastic->block, text), size_format(page, other));
	if (!elastic->maximum)
		return error_usage("max= is zero: give the most that this device may ever hold");
	TRY(check_multiple("max", elastic->maximum, "block size", elastic->block));
	TRY(check_multiple("size", elastic->size, "block size", elastic->block));
	if (elastic->size > elastic->maximum)
		return error_usage("size=%s is larger than max=%s",
				   size_format(elastic->size, text),
				   size_format(elastic->maximum, other));
	return elastic->automatic ? check_auto(elastic) : NULL;
}

static uint32_t nodes_mask(const struct machine_config *config)
{
	uint32_t mask = 0;

	for (uint32_t i = 0; i < config->memory_count; i++)
		mask |= 1U << config->memory[i].node;
	for (uint32_t i = 0; i < config->elastic_count; i++)
		mask |= 1U << config->elastic[i].node;
	return mask;
}

uint32_t machine_config_nodes(const struct machine_config *config)
{
	return (uint32_t)__builtin_popcount(nodes_mask(config));
}

static struct error *check_nodes(const struct machine_config *config)
{
	uint32_t mask = nodes_mask(config);
	uint32_t count = (uint32_t)__builtin_popcount(mask);

	for (uint32_t node = 0; node < count; node++)
		if (!(mask >> node & 1))
			return error_usage(
			    "NUMA node %u has no memory but a higher one has: number the "
			    "nodes from 0 without gaps",
			    node);
	for (uint32_t a = 0; a < MACHINE_NODES_MAX; a++) {
		for (uint32_t b = 0; b < MACHINE_NODES_MAX; b++) {
			uint8_t distance = config->distance[a][b];

			if (!distance)
				continue;
			if (a >= count || b >= count)
				return error_usage(
				    "--numa-distance %u,%u,%u: the machine has %u node%s", a, b,
				    distance, count, count == 1 ? "" : "s");
			if (distance < MACHINE_DISTANCE_MIN || distance > MACHINE_DISTANCE_MAX ||
			    (a == b && distance != MACHINE_DISTANCE_MIN))
				return error_usage(
				    "--numa-distance %u,%u,%u: a node is %d from itself, "
				    "and %d to %d from others",
				    a, b, distance, MACHINE_DISTANCE_MIN, MACHINE_DISTANCE_MIN,
				    MACHINE_DISTANCE_MAX);
		}
	}
	return NULL;
}

struct error *machine_config_check(struct machine_config *config)
{
	struct cpu_model model;
	uint64_t total = 0;

	TRY(machine_identifier_check("--name", config->name, 63));
	if (config->cpus < 1 || config->cpus > MACHINE_CPUS_MAX)
		return error_usage("--cpus %u: 1 to %d are possible", config->cpus,
				   MACHINE_CPUS_MAX);
	TRY(error_prefix(cpu_model_parse(config->cpu, &model), "--cpu"));
	if (!config->memory_count)
		return error_usage("--memory is missing: give the size of boot memory, as 512M");
	for (uint32_t i = 0; i < config->memory_count; i++) {
		TRY(error_prefix(check_memory(&config->memory[i]), "--memory"));
		if (!checked_add(total, config->memory[i].size, &total))
			return error_usage("--memory: the sizes together are too large");
	}
	for (uint32_t i = 0; i < config->elastic_count; i++) {
		struct machine_elastic *elastic = &config->elastic[i];

		TRY(machine_identifier_check("--elastic: id", elastic->id,
					     sizeof(elastic->id) - 1));
		for (uint32_t j = 0; j < i; j++)
			if (strcmp(config->elastic[j].id, elastic->id) == 0)
				return error_usage("--elastic: id '%s' is given twice",
						   elastic->id);
		TRY(error_prefix(check_elastic(elastic), "--elastic '%s'", elastic->id));
	}
	return check_nodes(config);
}
