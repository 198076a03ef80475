/* SPDX-License-Identifier: BSD-2-Clause */
/* Relative paths of a configuration become those of one folder; everything else stays as it is. */
#include <string.h>

#include "cmocka_prelude.h"
#include "machine/machine_config_paths.h"

/* What becomes of a device's options in @folder. */
static void assert_device(const char *kind, const char *options, const char *folder,
			  const char *expected)
{
	json_t *config = json_pack("{s:[{s:s, s:s}]}", "devices", "kind", kind, "options", options);
	json_t *device = json_array_get(json_object_get(config, "devices"), 0);

	machine_config_paths_from(config, folder);
	assert_string_equal(json_string_value(json_object_get(device, "options")), expected);
	json_decref(config);
}

static void assert_text(const char *name, const char *text, const char *folder,
			const char *expected)
{
	json_t *config = json_pack("{s:s}", name, text);

	machine_config_paths_from(config, folder);
	assert_string_equal(json_string_value(json_object_get(config, name)), expected);
	json_decref(config);
}

static void assert_backing(const char *list, const char *backing, const char *folder,
			   const char *expected)
{
	json_t *config = json_pack("{s:[{s:{s:s}}]}", list, "memory", "backing", backing);
	json_t *memory =
	    json_object_get(json_array_get(json_object_get(config, list), 0), "memory");

	machine_config_paths_from(config, folder);
	assert_string_equal(json_string_value(json_object_get(memory, "backing")), expected);
	json_decref(config);
}

static void files_become_those_of_the_folder(void **state)
{
	assert_text("kernel", "vmlinuz", "/a/b", "/a/b/vmlinuz");
	assert_text("kernel", "../x/vmlinuz", "/", "/../x/vmlinuz");
	assert_text("initrd", "initrd.img", "/a", "/a/initrd.img");
	assert_text("serial", "file:log", "/a", "file:/a/log");
	assert_text("serial", "unix:socket", "/a", "unix:/a/socket");
	assert_backing("memory", "file:ram", "/a", "file:/a/ram");
	assert_backing("elastic", "file:hot", "/a", "file:/a/hot");
}

static void options_of_devices_keep_their_order(void **state)
{
	assert_device("disk", "a.img", "/a", "/a/a.img");
	assert_device("disk", "a.img,readonly=on,id=d0", "/a", "/a/a.img,readonly=on,id=d0");
	assert_device("disk", "id=d0,path=a.img,lock=off", "/a", "id=d0,path=/a/a.img,lock=off");
	assert_device("vsock", "cid=3,path=v", "/a", "cid=3,path=/a/v");
	assert_device("disk", "vhost-user:s,queues=2", "/a", "vhost-user:/a/s,queues=2");
	assert_device("net", "vhost-user:s", "/a", "vhost-user:/a/s");
	assert_device("fs", "vhost-user:s,tag=t", "/a", "vhost-user:/a/s,tag=t");
	assert_device("vhost-user", "type=rng,socket=s", "/a", "type=rng,socket=/a/s");
	assert_device("console", "file:log,id=c", "/a", "file:/a/log,id=c");
	assert_device("console", "id=c,backend=unix:s", "/a", "id=c,backend=unix:/a/s");
}

static void what_is_no_relative_path_stays(void **state)
{
	assert_text("kernel", "/boot/vmlinuz", "/a", "/boot/vmlinuz");
	assert_text("cmdline", "root", "/a", "root");
	assert_text("serial", "null", "/a", "null");
	assert_text("serial", "file:/log", "/a", "file:/log");
	assert_backing("memory", "memfd", "/a", "memfd");
	assert_device("disk", "/a.img,serial=path", "/a", "/a.img,serial=path");
	assert_device("net", "tap:t0,id=n", "/a", "tap:t0,id=n");
	assert_device("console", "pty", "/a", "pty");
	assert_device("vsock", "cid=3,path=/v", "/a", "cid=3,path=/v");
	assert_device("disk", "vhost-user:/s", "/a", "vhost-user:/s");
	assert_device("disk", "file:s", "/a", "/a/file:s");
	assert_device("net", "tap:t", "/a", "tap:t");
	assert_device("rng", "", "/a", "");
}

static void what_cannot_be_written_stays_relative(void **state)
{
	char folder[101];

	memset(folder, 'f', sizeof(folder));
	folder[0] = '/';
	folder[100] = '\0';
	assert_device("disk", "a.img", "/a,b", "a.img");
	assert_backing("memory", "file:ram", "/a,b", "file:ram");
	assert_text("kernel", "k", "/a,b", "/a,b/k");
	assert_text("kernel", "k", "/\xff", "k");
	assert_text("serial", "unix:1234567", folder, "unix:1234567");
	folder[99] = '\0';
	assert_device("vsock", "cid=3,path=s", folder, "cid=3,path=s");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(files_become_those_of_the_folder),
	    cmocka_unit_test(options_of_devices_keep_their_order),
	    cmocka_unit_test(what_is_no_relative_path_stays),
	    cmocka_unit_test(what_cannot_be_written_stays_relative),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
