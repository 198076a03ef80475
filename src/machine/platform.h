/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Port, address and interrupt numbers of the fixed devices. Read by C and by the ACPI compiler (dsdt.asl), so only
 * plain numbers stand here.
 */
#ifndef GODWIT_MACHINE_PLATFORM_H
#define GODWIT_MACHINE_PLATFORM_H

#define PLATFORM_KEYBOARD_PORT	0x64
#define PLATFORM_RTC_PORT	0x70
#define PLATFORM_RTC_SIZE	2
#define PLATFORM_PANIC_PORT	0x505
#define PLATFORM_SERIAL_PORT	0x3f8
#define PLATFORM_SERIAL_SIZE	8
#define PLATFORM_SERIAL_GSI	4
#define PLATFORM_POWER_PORT	0x600
#define PLATFORM_POWER_SIZE	3
#define PLATFORM_POWER_GSI	9
#define PLATFORM_GENERATION_GSI 10
#define PLATFORM_PCI_PORT	0xcf8
#define PLATFORM_PCI_PORT_SIZE	8

/* Type of the sleep state "off" (S5), written to the sleep control register. */
#define PLATFORM_SLEEP_TYPE_OFF 5

/* Written to the reset register, PLATFORM_POWER_PORT + 2. */
#define PLATFORM_RESET_VALUE 1

/* What the DSDT reads at run time: two 64-bit numbers at the end of the area of the ACPI tables. */
#define PLATFORM_ACPI_CONFIG	  0xfff00
#define PLATFORM_ACPI_CONFIG_SIZE 16

/*
 * The generation id, 16 bytes alone in a page of the reserved area, which a guest maps cached and which nothing else in
 * the guest writes (Microsoft, "Virtual Machine Generation ID").
 */
#define PLATFORM_GENERATION_ADDRESS 0xfe000
#define PLATFORM_GENERATION_SIZE    16

#define PLATFORM_PCI32_START 0xc0000000
#define PLATFORM_PCI32_END   0xdfffffff
#define PLATFORM_PCI32_SIZE  0x20000000
#define PLATFORM_ECAM_START  0xe0000000
#define PLATFORM_ECAM_SIZE   0x00100000

#endif
