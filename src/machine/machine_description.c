/* SPDX-License-Identifier: BSD-2-Clause */
/* Descriptions of machines, machine_description.h. The peer controls what is read. */
#include "machine/machine_description.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "kvm/cpuid.h"
#include "machine/machine_config_json.h"
#include "machine/machine_config_paths.h"
#include "machine/machine_private.h"
#include "machine/machine_state.h"

#define VERSION	       1
#define VERSION_SHARED 2 /* memory goes along as descriptors, which who knows only 1 would miss */
#define STATES_MAX     4096
#define CPUID_NUMBERS  7 /* of an entry */

struct machine_description {
	json_t *root;
	uint32_t descriptors;
	/* In it: */
	const json_t *configuration, *memory, *states, *cpuid;
};

const char *machine_peer_text(const struct migration_message *message, char text[MACHINE_PEER_TEXT])
{
	size_t size = MIN(message->size, (size_t)MACHINE_PEER_TEXT - 1);

	for (size_t i = 0; i < size; i++)
		text[i] =
		    message->text[i] >= ' ' && message->text[i] <= '~' ? message->text[i] : '?';
	text[size] = '\0';
	return text;
}

/* --- Writing ----------------------------------------------------------------------------------- */

static json_t *describe_memory(const struct machine *machine)
{
	json_t *list = json_array();
	const struct memory_region *region;

	for (region = memory_map_first(machine->map); region; region = region->next)
		json_array_append_new(
		    list, json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "block", region->block->name,
				    "address", (json_int_t)region->address, "offset",
				    (json_int_t)region->block_offset, "size",
				    (json_int_t)region->size, "unit", (json_int_t)region->unit,
				    "page-size", (json_int_t)region->block->page_size));
	return list;
}

static struct error *describe_state(void *context, const struct state_part *part)
{
	json_array_append_new(context, json_pack("{s:s, s:I, s:I}", "name", part->name, "instance",
						 (json_int_t)part->instance, "version",
						 (json_int_t)part->version));
	return NULL;
}

/* Of the first processor: the others differ in their numbers alone. */
static json_t *describe_cpuid(const struct machine *machine)
{
	const struct kvm_cpuid2 *cpuid = kvm_vcpus_cpuid(machine->vcpus, 0);
	json_t *list = json_array();

	for (uint32_t i = 0; i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

		json_array_append_new(
		    list, json_pack("[I, I, I, I, I, I, I]", (json_int_t)entry->function,
				    (json_int_t)entry->index, (json_int_t)entry->flags,
				    (json_int_t)entry->eax, (json_int_t)entry->ebx,
				    (json_int_t)entry->ecx, (json_int_t)entry->edx));
	}
	return list;
}

struct error *machine_describe(struct machine *machine, uint32_t descriptors, char **text,
			       uint32_t *count)
{
	AUTO_FREE char *folder = getcwd(NULL, 0); /* fails when it was removed */
	json_t *config = machine_config_to_json(&machine->config), *states = json_array(), *root;
	struct error *error;

	if (config && folder)
		machine_config_paths_from(config, folder);
	error = machine_state_list(machine, describe_state, states);
	*count = (uint32_t)json_array_size(states);
	root =
	    json_pack("{s:i, s:o, s:o, s:o, s:o}", "version",
		      descriptors ? VERSION_SHARED : VERSION, "configuration", config, "memory",
		      describe_memory(machine), "states", states, "cpuid", describe_cpuid(machine));
	if (root && descriptors)
		json_object_set_new(root, "descriptors", json_integer(descriptors));
	if (error) {
		json_decref(root);
		return error;
	}
	*text = root ? json_dumps(root, JSON_COMPACT) : NULL;
	json_decref(root);
	return *text ? NULL
		     : error_new(EINVAL, "a name or an option of the machine is not UTF-8 text, as "
					 "it must be for another host");
}

/* --- Reading ----------------------------------------------------------------------------------- */

void machine_description_free(struct machine_description *description)
{
	if (!description)
		return;
	json_decref(description->root);
	free(description);
}

static struct error *list_of(const json_t *root, const char *name, size_t maximum,
			     const json_t **list)
{
	*list = json_object_get(root, name);
	if (!json_is_array(*list))
		return error_new(EBADMSG, "'%s' is not a list", name);
	if (json_array_size(*list) > maximum)
		return error_new(EBADMSG, "'%s' has %zu entries: at most %zu", name,
				 json_array_size(*list), maximum);
	return NULL;
}

/* A whole number that is there. */
static struct error *number_of(const json_t *object, const char *list, size_t index,
			       const char *name, uint64_t *number)
{
	const json_t *value = json_object_get(object, name);

	if (!json_is_integer(value) || json_integer_value(value) < 0)
		return error_new(EBADMSG, "%s[%zu]: '%s' is not a whole number", list, index, name);
	*number = (uint64_t)json_integer_value(value);
	return NULL;
}

static struct error *text_of(const json_t *object, const char *list, size_t index, const char *name,
			     const char **text)
{
	*text = json_string_value(json_object_get(object, name));
	return *text ? NULL : error_new(EBADMSG, "%s[%zu]: '%s' is not text", list, index, name);
}

static struct error *read_descriptors(struct machine_description *description)
{
	const json_t *count = json_object_get(description->root, "descriptors");

	if (!json_is_integer(count) || json_integer_value(count) < 1 ||
	    json_integer_value(count) > MACHINE_BLOCKS_MAX)
		return error_new(EBADMSG, "'descriptors' is not 1 to %d", MACHINE_BLOCKS_MAX);
	description->descriptors = (uint32_t)json_integer_value(count);
	return NULL;
}

static struct error *read_root(struct machine_description *description, const char *text,
			       size_t size)
{
	const json_t *version;
	json_error_t problem;

	description->root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &problem);
	if (!description->root)
		return error_new(EBADMSG, "%s", problem.text);
	version = json_object_get(description->root, "version");
	if (!json_is_integer(version))
		return error_new(EBADMSG, "'version' is not a whole number");
	if (json_integer_value(version) != VERSION && json_integer_value(version) != VERSION_SHARED)
		return error_new(EBADMSG,
				 "version %" JSON_INTEGER_FORMAT ", and %d and %d are understood",
				 json_integer_value(version), VERSION, VERSION_SHARED);
	if (json_integer_value(version) == VERSION_SHARED)
		TRY(read_descriptors(description));
	description->configuration = json_object_get(description->root, "configuration");
	if (!json_is_object(description->configuration))
		return error_new(EBADMSG, "'configuration' is not an object");
	TRY(list_of(description->root, "memory", MACHINE_NODES_MAX + MACHINE_ELASTIC_MAX + 16,
		    &description->memory));
	TRY(list_of(description->root, "states", STATES_MAX, &description->states));
	return list_of(description->root, "cpuid", KVM_CPUID_ENTRIES_MAX, &description->cpuid);
}

struct error *machine_description_read(const char *text, size_t size,
				       struct machine_description **result)
{
	AUTO_MACHINE_DESCRIPTION struct machine_description *description =
	    calloc(1, sizeof(*description));

	if (!description)
		return error_system(ENOMEM, "a description of a machine");
	TRY(error_prefix(read_root(description, text, size), "the description of the machine"));
	*result = TAKE_PTR(description);
	return NULL;
}

uint32_t machine_description_descriptors(const struct machine_description *description)
{
	return description->descriptors;
}

uint32_t machine_description_states(const struct machine_description *description)
{
	return (uint32_t)json_array_size(description->states);
}

void machine_description_state(const struct machine_description *description, uint32_t index,
			       const char **name, uint32_t *instance, uint32_t *version)
{
	const json_t *object = json_array_get(description->states, index);

	*name = json_string_value(json_object_get(object, "name"));
	*instance = (uint32_t)json_integer_value(json_object_get(object, "instance"));
	*version = (uint32_t)json_integer_value(json_object_get(object, "version"));
}

uint64_t machine_description_page_size(const struct machine_description *description,
				       const char *block)
{
	size_t index;
	json_t *item;

	json_array_foreach ((json_t *)description->memory, index, item) {
		const char *name = json_string_value(json_object_get(item, "block"));
		json_int_t size = json_integer_value(json_object_get(item, "page-size"));

		if (name && !strcmp(name, block) && size > 0)
			return (uint64_t)size;
	}
	return 0;
}

struct error *machine_description_config(const struct machine_description *description,
					 struct machine_config *config)
{
	return error_prefix(machine_config_from_json(description->configuration, config),
			    "the configuration of the machine");
}

/* --- Comparing --------------------------------------------------------------------------------- */

static struct error *check_region(const struct memory_region *region, const json_t *object,
				  size_t index)
{
	uint64_t address, offset, size, unit;
	const char *block;

	TRY(text_of(object, "memory", index, "block", &block));
	TRY(number_of(object, "memory", index, "address", &address));
	TRY(number_of(object, "memory", index, "offset", &offset));
	TRY(number_of(object, "memory", index, "size", &size));
	TRY(number_of(object, "memory", index, "unit", &unit));
	if (strcmp(block, region->block->name) == 0 && address == region->address &&
	    offset == region->block_offset && size == region->size && unit == region->unit)
		return NULL;
	return error_new(ENOTSUP,
			 "memory '%.32s' at 0x%" PRIx64 ", %" PRIu64 " bytes in blocks of %" PRIu64
			 ", would be '%s' at 0x%" PRIx64 ", %" PRIu64
			 " bytes in blocks of %" PRIu64,
			 block, address, size, unit, region->block->name, region->address,
			 region->size, region->unit);
}

static struct error *check_memory(const struct machine_description *description,
				  const struct machine *machine)
{
	const struct memory_region *region = memory_map_first(machine->map);
	size_t index;
	json_t *item;

	json_array_foreach ((json_t *)description->memory, index, item) {
		if (!region)
			return error_new(ENOTSUP, "the guest has more pieces of memory than %zu",
					 index);
		TRY(check_region(region, item, index));
		region = region->next;
	}
	return region ? error_new(ENOTSUP, "the guest has no memory '%s'", region->block->name)
		      : NULL;
}

struct comparison {
	const json_t *states;
	size_t index;
};

static struct error *check_state(void *context, const struct state_part *part)
{
	struct comparison *comparison = context;
	size_t index = comparison->index++;
	const json_t *object = json_array_get(comparison->states, index);
	uint64_t instance, version;
	const char *name;

	if (!object)
		return error_new(ENOTSUP, "the guest has no %s %u, which would be here", part->name,
				 part->instance);
	TRY(text_of(object, "states", index, "name", &name));
	TRY(number_of(object, "states", index, "instance", &instance));
	TRY(number_of(object, "states", index, "version", &version));
	if (strcmp(name, part->name) != 0 || instance != part->instance)
		return error_new(ENOTSUP,
				 "the guest has %.96s %" PRIu64 " where %s %u would be here", name,
				 instance, part->name, part->instance);
	if (version < 1 || version > part->version)
		return error_new(ENOTSUP,
				 "%s %u is in version %" PRIu64
				 " there, and versions up to %u are understood here",
				 part->name, part->instance, version, part->version);
	return NULL;
}

static struct error *check_states(const struct machine_description *description,
				  struct machine *machine)
{
	struct comparison comparison = {.states = description->states};
	const json_t *left;

	TRY(machine_state_list(machine, check_state, &comparison));
	left = json_array_get(description->states, comparison.index);
	if (left)
		return error_new(ENOTSUP, "the guest has %.96s, for which there is nothing here",
				 json_string_value(json_object_get(left, "name")) ?: "something");
	return NULL;
}

static struct error *read_entry(const json_t *item, size_t index, struct kvm_cpuid_entry2 *entry)
{
	uint32_t *const numbers[CPUID_NUMBERS] = {&entry->function, &entry->index, &entry->flags,
						  &entry->eax,	    &entry->ebx,   &entry->ecx,
						  &entry->edx};

	for (size_t i = 0; i < CPUID_NUMBERS; i++) {
		const json_t *value = json_array_get(item, i);

		if (!json_is_integer(value) || json_integer_value(value) < 0 ||
		    json_integer_value(value) > UINT32_MAX)
			return error_new(EBADMSG, "cpuid[%zu]: is not %d numbers of 32 bits", index,
					 CPUID_NUMBERS);
		*numbers[i] = (uint32_t)json_integer_value(value);
	}
	return NULL;
}

static struct error *check_cpuid(const struct machine_description *description,
				 const struct machine *machine)
{
	size_t count = json_array_size(description->cpuid), index;
	AUTO_FREE struct kvm_cpuid2 *guest =
	    calloc(1, sizeof(*guest) + count * sizeof(guest->entries[0]));
	json_t *item;

	if (!guest)
		return error_system(ENOMEM, "CPUID table");
	guest->nent = (uint32_t)count;
	json_array_foreach ((json_t *)description->cpuid, index, item)
		TRY(read_entry(item, index, &guest->entries[index]));
	return kvm_cpuid_check(guest, kvm_vcpus_cpuid(machine->vcpus, 0));
}

struct error *machine_description_check(const struct machine_description *description,
					struct machine *machine)
{
	TRY(check_cpuid(description, machine));
	TRY(check_memory(description, machine));
	return check_states(description, machine);
}
