/* SPDX-License-Identifier: BSD-2-Clause */
/* The front of a snapshot, snapshot_head.h. Nothing here comes from outside but sizes and bytes. */
#include "snapshot/snapshot_head.h"

#include <string.h>

#include "base/checked.h"
#include "snapshot/snapshot_file_section.h"

/* Beyond this a section is described as a row of bytes: the script looks at the last 10 MB. */
#define DESCRIPTION_MAX	  (6 << 20)
#define FIELD_DESCRIPTION 100 /* characters for a field, about */

uint32_t snapshot_head_section_begin(struct snapshot_head *head, struct snapshot_buffer *buffer,
				     const char *name, uint32_t instance, uint32_t version,
				     size_t size)
{
	uint32_t id = head->next_section_id++;

	snapshot_buffer_put8(buffer, QEVM_SECTION_FULL);
	snapshot_buffer_put32(buffer, id);
	snapshot_buffer_put_name(buffer, name);
	snapshot_buffer_put32(buffer, instance);
	snapshot_buffer_put32(buffer, version);
	snapshot_buffer_put32(buffer, (uint32_t)size);
	return id;
}

void snapshot_head_section_end(struct snapshot_buffer *buffer, uint32_t id)
{
	snapshot_buffer_put8(buffer, QEVM_FOOTER);
	snapshot_buffer_put32(buffer, id);
}

uint32_t snapshot_head_ram_begin(struct snapshot_head *head, struct snapshot_buffer *buffer,
				 uint64_t total)
{
	uint32_t id = head->next_section_id++;

	snapshot_buffer_put8(buffer, QEVM_SECTION_START);
	snapshot_buffer_put32(buffer, id);
	snapshot_buffer_put_name(buffer, RAM_SECTION_NAME);
	snapshot_buffer_put32(buffer, 0);
	snapshot_buffer_put32(buffer, RAM_SECTION_VERSION);
	snapshot_buffer_put64(buffer, total | RAM_FLAG_MEM_SIZE);
	return id;
}

void snapshot_head_describe(struct snapshot_head *head, const char *name, uint32_t instance,
			    uint32_t version, const struct state_field *fields, size_t count)
{
	struct snapshot_buffer *json = &head->description;

	snapshot_buffer_print(json,
			      "%s{\"name\":\"%s\",\"instance_id\":%u,\"vmsd_name\":\"%s\","
			      "\"version\":%u,\"fields\":[{\"name\":\"length\","
			      "\"type\":\"uint32\",\"size\":4}",
			      json->size ? "," : "", name, instance, name, version);
	for (size_t i = 0; i < count; i++)
		snapshot_buffer_print(json, ",{\"name\":\"%s\",\"type\":\"%s\",\"size\":%zu}",
				      fields[i].name, fields[i].type, fields[i].size);
	snapshot_buffer_print(json, "]}");
}

bool snapshot_head_name_is_good(const char *name)
{
	size_t length = strnlen(name, SNAPSHOT_NAME_MAX + 1);

	if (!length || length > SNAPSHOT_NAME_MAX)
		return false;
	for (; *name; name++)
		if (*name <= ' ' || *name > '~' || *name == '"' || *name == '\\')
			return false;
	return true;
}

static struct error *add_key(struct snapshot_head *head, const char *name, uint32_t instance)
{
	struct snapshot_head_key *keys;

	for (uint32_t i = 0; i < head->key_count; i++)
		if (head->keys[i].instance == instance && strcmp(head->keys[i].name, name) == 0)
			return error_new(EEXIST, "section %s, instance %u, is there twice", name,
					 instance);
	if (head->key_count == SNAPSHOT_SECTIONS_MAX)
		return error_new(E2BIG, "a snapshot has at most %d sections",
				 SNAPSHOT_SECTIONS_MAX);
	keys = reallocarray(head->keys, head->key_count + 1, sizeof(*keys));
	if (!keys)
		return error_new(ENOMEM, "no memory for section %s", name);
	head->keys = keys;
	snprintf(keys[head->key_count].name, sizeof(keys->name), "%s", name);
	keys[head->key_count++].instance = instance;
	return NULL;
}

static struct error *add_section(struct snapshot_head *head, const char *name, uint32_t instance,
				 uint32_t version, const void *bytes, size_t size,
				 const struct state_field *fields, size_t field_count)
{
	const struct state_field whole = {"bytes", "buffer", size};
	uint32_t id;

	if (head->closed)
		return error_new(EINVAL, "section %s comes after the first page", name);
	if (!snapshot_head_name_is_good(name))
		return error_new(EINVAL,
				 "section name '%s': use 1 to %d printable characters without "
				 "quotes and backslashes",
				 name, SNAPSHOT_NAME_MAX);
	if (size > SNAPSHOT_SECTIONS_SIZE_MAX - MIN(head->bytes.size, SNAPSHOT_SECTIONS_SIZE_MAX))
		return error_new(E2BIG, "section %s: all sections together are at most %d MiB",
				 name, SNAPSHOT_SECTIONS_SIZE_MAX >> 20);
	TRY(add_key(head, name, instance));
	id = snapshot_head_section_begin(head, &head->bytes, name, instance, version, size);
	snapshot_buffer_put(&head->bytes, bytes, size);
	snapshot_head_section_end(&head->bytes, id);
	if (field_count &&
	    head->description.size + field_count * FIELD_DESCRIPTION < DESCRIPTION_MAX)
		snapshot_head_describe(head, name, instance, version, fields, field_count);
	else
		snapshot_head_describe(head, name, instance, version, &whole, size != 0);
	if (head->bytes.failed || head->description.failed)
		return error_new(ENOMEM, "no memory for section %s", name);
	return NULL;
}

struct error *snapshot_head_add_section(struct snapshot_head *head, const char *name,
					uint32_t instance, uint32_t version,
					const struct state *state)
{
	size_t size, count;
	const void *bytes = state_bytes(state, &size);
	const struct state_field *fields = state_fields(state, &count);

	return add_section(head, name, instance, version, bytes, size, fields, count);
}

struct error *snapshot_head_add_bytes(struct snapshot_head *head, const char *name,
				      uint32_t instance, uint32_t version, const void *bytes,
				      size_t size)
{
	return add_section(head, name, instance, version, bytes, size, NULL, 0);
}

/* What stands in front of the first section. */
static void put_configuration(struct snapshot_buffer *buffer, const char *const *capabilities,
			      uint32_t count)
{
	snapshot_buffer_put32(buffer, QEVM_MAGIC);
	snapshot_buffer_put32(buffer, QEVM_VERSION);
	snapshot_buffer_put8(buffer, QEVM_CONFIGURATION);
	snapshot_buffer_put32(buffer, strlen(SNAPSHOT_MACHINE));
	snapshot_buffer_put(buffer, SNAPSHOT_MACHINE, strlen(SNAPSHOT_MACHINE));
	snapshot_buffer_put8(buffer, QEVM_SUBSECTION);
	snapshot_buffer_put_name(buffer, "configuration/capabilities");
	snapshot_buffer_put32(buffer, 1);
	snapshot_buffer_put32(buffer, count);
	for (uint32_t i = 0; i < count; i++)
		snapshot_buffer_put_name(buffer, capabilities[i]);
}

struct error *snapshot_head_begin(struct snapshot_head *head, const char *const *capabilities,
				  uint32_t count, struct snapshot_file_section *file)
{
	AUTO_STATE struct state *state = state_save_begin(true);
	struct state_part part = {.name = SNAPSHOT_SECTION_FILE,
				  .version = SNAPSHOT_FILE_SECTION_VERSION,
				  .visit = snapshot_file_section_state,
				  .context = file};

	put_configuration(&head->bytes, capabilities, count);
	TRY(state_visit(state, &part));
	return snapshot_head_add_section(head, part.name, 0, part.version, state);
}

void snapshot_head_clear(struct snapshot_head *head)
{
	free(head->bytes.bytes);
	free(head->description.bytes);
	free(head->keys);
}
