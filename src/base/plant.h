/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Planted bugs: proof that the simulator can find what it claims to guard. Each is one number; a
 * build with -DTASKMILL_PLANT=<number> has that one bug, every other build has none (the condition
 * is a compile-time constant and the branch disappears). tests/sim builds one simulator per bug and
 * must find it within 60 s.
 */
#ifndef TASKMILL_BASE_PLANT_H
#define TASKMILL_BASE_PLANT_H

#ifndef TASKMILL_PLANT
#define TASKMILL_PLANT 0
#endif

enum plant {
    PLANT_NONE = 0,
    PLANT_REPLY_BEFORE_COMMIT = 1,
    PLANT_OFFSET_BEFORE_COMMIT = 2,
    PLANT_CLAIM_BEFORE_CONFIRMATION = 3, /* at-most-once row, offset not confirmed yet */
    PLANT_CONFIRM_BY_OFFSET_ALONE = 4,   /* owner list ignored */
    PLANT_CLAIM_TO_DEAD_STREAM = 5,      /* undelivered claim is not given back */
    PLANT_UNFENCED_RETRY = 6,            /* late Retry on a row that is Pending again is obeyed */
    PLANT_DELETE_BEFORE_DELIVERY = 7,    /* row leaves before the delivery report */
    PLANT_COMMIT_AFTER_REVOKE = 8,       /* offset commit for a partition that was given up */
    PLANT_NO_CHECKPOINT_AT_START = 9,
    PLANT_DELAY_LOST_AT_LOAD = 10,
    PLANT_FORWARD_IN_MEMORY = 11, /* a forwarded task is in no file until its topic has it */
    PLANT_WALL_TIMERS = 12,       /* the engine's time follows the wall clock */
    PLANT_GIVE_BACK_UNNAMED = 13  /* a give-back counts whatever its claim number */
};

#define PLANTED(bug) (TASKMILL_PLANT == (bug))

#endif
