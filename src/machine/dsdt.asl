/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The differentiated system description: the PCI root and the few devices without a bus. Compiled at build time; what
 * differs between machines is read from the configuration area that acpi.c writes beside the tables.
 */
#include "platform.h"

DefinitionBlock ("", "DSDT", 2, "GODWIT", "GODWITVM", 0x00000001)
{
	/* Power-off through the sleep control register of the FADT. */
	Name (\_S5, Package () { PLATFORM_SLEEP_TYPE_OFF, Zero, Zero, Zero })

	OperationRegion (GCFG, SystemMemory, PLATFORM_ACPI_CONFIG, PLATFORM_ACPI_CONFIG_SIZE)
	Field (GCFG, QWordAcc, NoLock, Preserve)
	{
		P64S, 64, /* first byte of the window for 64-bit BARs */
		P64L, 64, /* its length */
	}

	Scope (\_SB)
	{
		Device (PCI0)
		{
			Name (_HID, EisaId ("PNP0A08"))
			Name (_CID, EisaId ("PNP0A03"))
			Name (_UID, Zero)
			Name (_SEG, Zero)
			Name (_BBN, Zero)

			Name (CRES, ResourceTemplate ()
			{
				WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
					0, 0, 0, 0, 1)
				IO (Decode16, PLATFORM_PCI_PORT, PLATFORM_PCI_PORT, 1,
					PLATFORM_PCI_PORT_SIZE)
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
					0, 0x1000, 0xffff, 0, 0xf000)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
					NonCacheable, ReadWrite,
					0, PLATFORM_PCI32_START, PLATFORM_PCI32_END, 0,
					PLATFORM_PCI32_SIZE)
				QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
					Cacheable, ReadWrite,
					0, 0x100000000, 0x1ffffffff, 0, 0x100000000, , , W64)
			})

			Method (_CRS, 0, Serialized)
			{
				CreateQWordField (CRES, ^W64._MIN, WMIN)
				CreateQWordField (CRES, ^W64._MAX, WMAX)
				CreateQWordField (CRES, ^W64._LEN, WLEN)
				WMIN = P64S
				WLEN = P64L
				WMAX = P64S + P64L - 1
				Return (CRES)
			}

			/* PCI host bridge capabilities: the system may have what it asks for, except hot plug. */
			Method (_OSC, 4, Serialized)
			{
				CreateDWordField (Arg3, 0, CAP1)
				If (Arg0 != ToUUID ("33db4d5b-1ff7-401c-9657-7441c03dd766"))
				{
					CAP1 |= 4 /* unrecognised UUID */
					Return (Arg3)
				}
				CreateDWordField (Arg3, 8, CAP3)
				Local0 = CAP3 & 0xfffffffc
				If (Arg1 != 1)
				{
					CAP1 |= 8 /* unknown revision */
				}
				If (Local0 != CAP3)
				{
					CAP1 |= 0x10 /* capabilities masked */
				}
				CAP3 = Local0
				Return (Arg3)
			}
		}

		/* Keeps the configuration space out of everything else; Linux uses it only then. */
		Device (ECAM)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_UID, "ECAM")
			Name (_CRS, ResourceTemplate ()
			{
				Memory32Fixed (ReadWrite, PLATFORM_ECAM_START, PLATFORM_ECAM_SIZE)
			})
		}

		Device (COM1)
		{
			Name (_HID, EisaId ("PNP0501"))
			Name (_UID, One)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, PLATFORM_SERIAL_PORT, PLATFORM_SERIAL_PORT, 1,
					PLATFORM_SERIAL_SIZE)
				Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive)
				{
					PLATFORM_SERIAL_GSI
				}
			})
		}

		/* No interrupt: it tells the time and has no alarm. */
		Device (RTC0)
		{
			Name (_HID, EisaId ("PNP0B00"))
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, PLATFORM_RTC_PORT, PLATFORM_RTC_PORT, 1, PLATFORM_RTC_SIZE)
			})
		}

		Device (PWRB)
		{
			Name (_HID, EisaId ("PNP0C0C"))
			Name (_UID, Zero)
		}

		/*
		 * Virtual machine generation id: where the id is, as two halves of an address. A new one is told by
		 * a notification, also to a guest that slept through the cloning.
		 */
		Device (VGEN)
		{
			Name (_HID, "GDWT0001") /* drivers look for the compatible id */
			Name (_CID, "VM_Gen_Counter")
			Name (_DDN, "VM_Gen_Counter")
			Name (_UID, Zero)
			Name (ADDR, Package () { PLATFORM_GENERATION_ADDRESS, Zero })
		}

		/* Generic event device: the events are the power button and a new generation id. */
		Device (GED0)
		{
			Name (_HID, "ACPI0013")
			Name (_UID, Zero)
			Name (_CRS, ResourceTemplate ()
			{
				Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive)
				{
					PLATFORM_POWER_GSI
				}
				Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive)
				{
					PLATFORM_GENERATION_GSI
				}
			})
			Method (_EVT, 1, Serialized)
			{
				If (Arg0 == PLATFORM_POWER_GSI)
				{
					Notify (PWRB, 0x80)
				}
				If (Arg0 == PLATFORM_GENERATION_GSI)
				{
					Notify (VGEN, 0x80)
				}
			}
		}

		/* pvpanic, by the name under which Linux's driver knows it. */
		Device (PEVT)
		{
			Name (_HID, "QEMU0001")
			Name (_UID, Zero)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, PLATFORM_PANIC_PORT, PLATFORM_PANIC_PORT, 1, 1)
			})
		}
	}
}
