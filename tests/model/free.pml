/* SPDX-License-Identifier: GPL-2.0 */
/*
 * One page of a guest that migrates, and who says whether it is free.
 *
 *	guest	takes the page out of the buddy allocator, says so, writes, reads, puts it
 *		back, over and over, in the order of user/guest.bpf.c's hooks
 *	scan	kvmext guest, looking for free pages that the hooks did not see, in the
 *		same guest: it stands still when the guest does
 *	host	KVM and a VMM: write-protects, copies, takes the log, asks skip_free, leaves
 *		the page out until it is written to again, stops the guest, takes the log
 *		once more, and has the guest go on over there
 *
 * What must hold: whatever the guest reads is what it wrote last.
 *
 * A step is what no other can come between.  Stores of one CPU are seen in order, as on
 * x86; a store still on its way when the host looks is a step not yet done.
 *
 * -DMANUAL	the log is taken as with KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
 * -DFIRST	pages free at the start are left out of the first pass too
 *
 * and what would be wrong, which the model has to find (tests/host/model.sh):
 *
 * -DLATE	the guest writes (zeroes) the page before it says that it is in use, as it
 *		would with the mm_page_alloc tracepoint
 * -DNO_RECHECK	the scan does not look again after it set the bit
 * -DNO_SEQ	the host does not mind a scan under way
 * -DNO_AGAIN	the answer that counts was given before the flush
 * -DRESET	the guest starts anew, its bitmap is as it was, and the host does not see it
 */
#define GARBAGE	7
#define PASSES	2	/* of the guest, by turns of its loop */

byte mem[2];		/* the page: here, there */
byte here = 0;		/* which of them the guest runs on */
byte last;		/* what the guest wrote last */
bool stopped = false;

bool buddy = true;	/* struct page says so */
bool marked = true;	/* the bitmap does */
byte seq = 0;

bool dirty = false;	/* KVM's log */
bool protect = false;	/* the page's SPTE */
bool tlb = true;	/* a CPU may write without looking at the SPTE */

#define STEP(x)	atomic { !stopped -> x }

inline write(v)
{
	atomic {
		!stopped ->
		if
		:: tlb
		:: else ->
			/* A fault, or a walk that finds the page writable */
			if
			:: protect -> dirty = true; protect = false
			:: else
			fi;
			tlb = true
		fi;
		mem[here] = v;
		last = v
	}
}

proctype guest()
{
	byte n;

	do
	:: n < PASSES ->
		n++;
		/* Out: struct page first, then the hook, under zone->lock */
		STEP(buddy = false);
#ifdef LATE
		write(n);
		STEP(marked = false);
#else
		STEP(marked = false);
		write(n);
#endif
		STEP(assert(mem[here] == last));
		if
		:: write(n + PASSES);
		   STEP(assert(mem[here] == last))
		:: skip
		fi;
		/* In: straight to the buddy, the hook before; or from a per-CPU list, after */
		if
		:: STEP(marked = true); STEP(buddy = true)
		:: STEP(buddy = true); STEP(marked = true)
		:: STEP(buddy = true)	/* one that no hook sees */
		fi
	:: n == PASSES -> break
#ifdef RESET
	/* Another kernel: all of memory is its own, and it has no agent yet */
	:: n < PASSES ->
		n = PASSES;
		write(PASSES + 3);
		STEP(assert(mem[here] == last));
		STEP(assert(mem[here] == last))
#endif
	od
}

proctype scan()
{
	bool was;
	byte n;

	do
	:: n < 2 ->
		n++;
		STEP(seq++);
		STEP(was = buddy);
		if
		:: was ->
			STEP(marked = true);
#ifndef NO_RECHECK
			STEP(was = buddy);
			if
			:: !was -> STEP(marked = false)
			:: else
			fi
#endif
		:: else
		fi;
		STEP(seq++)
	:: break
	od
}

/* What skip_free answers */
inline ask()
{
	s = seq;
	gone = marked;
#ifndef NO_SEQ
	if
	:: s % 2 || s != seq -> gone = false
	:: else
	fi
#endif
}

inline flush()
{
	tlb = false
}

/* Clear the bit, and from the flush on a write is seen */
inline clear()
{
	atomic { dirty = false; protect = true };
	flush()
}

/* A page that is left out stays out until it is written to */
inline harvest()
{
#ifdef MANUAL
	/* A snapshot, asked about twice; what is let through user space clears */
	told = dirty;
	if
	:: told ->
		ask();
		if
		:: gone ->
			clear();
#ifndef NO_AGAIN
			ask();
#endif
			if
			:: !gone -> dirty = true
			:: else
			fi
		:: else
		fi;
		if
		:: !gone ->
			clear();
			mem[1] = mem[0]
		:: else
		fi
	:: else
	fi
#else
	told = dirty;
	if
	:: told ->
#ifdef NO_AGAIN
		ask();
#endif
		clear();
#ifndef NO_AGAIN
		ask();
#endif
		if
		:: !gone -> mem[1] = mem[0]
		:: else
		fi
	:: else
	fi
#endif
}

proctype host()
{
	bool told, gone;
	byte s, n;

	/* The log goes on */
	atomic { protect = true; dirty = false };
	flush();
	gone = false;
#ifdef FIRST
	ask();
#endif
	if
	:: !gone -> mem[1] = mem[0]
	:: else
	fi;
	do
	:: n < 2 -> n++; harvest()
	:: break
	od;
	stopped = true;
	harvest();
	atomic {
		here = 1;
		protect = false;
		tlb = false;
		dirty = false
	};
	stopped = false
}

init {
	mem[0] = GARBAGE;
	mem[1] = GARBAGE + 1;
	atomic { run guest(); run scan(); run host() }
}
