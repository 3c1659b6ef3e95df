-- name: insert_job
-- A new job; the policy refuses any tenant but the current one.
insert into job (id, tenant, kind, queue, payload) values (%(id)s, %(tenant)s, %(kind)s, %(queue)s, %(payload)s)

-- name: claim_key
-- Binds an idempotency key to a job for 24 h; no row when another job holds it.
insert into job_key as k (key, job) values (%(key)s, %(job)s)
on conflict (tenant, key) do update set job = excluded.job, expires_at = excluded.expires_at where k.expires_at < now()
returning job

-- name: find_key
-- The job that an idempotency key is bound to.
select job from job_key where key = %(key)s

-- name: dispatch
-- Hands one round of a job to the engine, in this transaction, after some milliseconds or at once (null).
select dispatch_job(%(id)s, %(round)s, %(queue)s, %(after_ms)s::bigint)

-- name: withdraw
-- Takes one round of a job back from the engine.
select withdraw_job(%(id)s, %(round)s)

-- name: get_job
-- One job of the current tenant.
select id, tenant, kind, queue, status, phase, done, total, attempts, payload, result, error, history,
    created_at, started_at, finished_at
from job where id = %(id)s

-- name: list_jobs
-- The newest jobs of the current tenant before a cursor, of one status or of all.
select id, tenant, kind, queue, status, phase, done, total, attempts, payload, result, error, history,
    created_at, started_at, finished_at
from job
where (%(status)s::text is null or status = %(status)s) and (%(after)s::text is null or id < %(after)s)
order by id desc limit %(limit)s

-- name: cancel_job
-- Cancels a job that is not finished; its owner may write no more.
update job set status = 'cancelled', phase = 'cancelled', owner = null, finished_at = now()
where id = %(id)s and status in ('queued', 'running') returning round

-- name: replay_job
-- Puts a failed or cancelled job back, one round further; what it has already done stays done.
update job set status = 'queued', phase = 'queued', error = null, failures = 0, lives = 0, round = round + 1, owner = null,
    finished_at = null
where id = %(id)s and status in ('failed', 'cancelled') returning round, queue

-- name: delete_job
-- Forgets a finished job.
delete from job where id = %(id)s and status in ('done', 'failed', 'cancelled') returning id

-- name: peek_job
-- What a worker needs to know before it starts a round; no row when the round is over.
select kind, queue, payload, attempts, failures, lives from job
where id = %(id)s and round = %(round)s and status in ('queued', 'running')

-- name: begin_attempt
-- Makes one attempt the only one that may write; the same owner may ask twice.
update job set status = 'running', phase = case when status = 'queued' then 'running' else phase end,
    started_at = coalesce(started_at, now()), owner = %(owner)s,
    attempts = attempts + (owner is distinct from %(owner)s)::int, lives = lives + (owner is distinct from %(owner)s)::int
where id = %(id)s and round = %(round)s and status in ('queued', 'running') returning id

-- name: finish_done
-- Writes the result of the attempt that owns the job.
update job set status = 'done', phase = 'done', done = greatest(done, total), result = %(result)s, error = null,
    owner = null, finished_at = now()
where id = %(id)s and owner = %(owner)s returning id

-- name: finish_again
-- Ends an attempt that is to be made again, one round further, after a failure or because its worker stops.
update job set status = 'queued', round = round + 1, lives = 0, owner = null,
    failures = failures + (%(error)s::jsonb is not null)::int, error = coalesce(%(error)s, error),
    history = case when %(error)s::jsonb is null then history else history || jsonb_build_array(%(error)s::jsonb) end
where id = %(id)s and owner = %(owner)s returning round, queue

-- name: finish_failed
-- Makes a dead letter of the job that this attempt owns.
update job set status = 'failed', phase = 'failed', owner = null, finished_at = now(), error = %(error)s,
    history = history || jsonb_build_array(%(error)s::jsonb)
where id = %(id)s and owner = %(owner)s returning id

-- name: write_progress
-- How far the owner has come.
update job set phase = %(phase)s, done = %(done)s, total = %(total)s where id = %(id)s and owner = %(owner)s returning id

-- name: claim_effect
-- Claims an effect for the owner of the job; waits for whoever is at it, no row when it is done or the owner has changed.
insert into job_effect (job, effect) select id, %(effect)s from job where id = %(id)s and owner = %(owner)s
on conflict do nothing returning effect

-- name: effect_result
-- The stored result of an effect that is done.
select result from job_effect where job = %(id)s and effect = %(effect)s

-- name: store_effect
-- Keeps the result of an effect beside its guard row.
update job_effect set result = %(result)s where job = %(id)s and effect = %(effect)s

-- name: beat
-- Says that this worker is alive, by the clock of the database.
insert into gimle.job_executor as e (id) values (%(me)s) on conflict (id) do update set seen = clock_timestamp()

-- name: lost_rounds
-- Rounds that run in this process, though the engine has given them to another or taken them back.
select workflow_uuid from jobs.workflow_status
where workflow_uuid = any(%(running)s) and (status <> 'PENDING' or executor_id <> %(me)s)

-- name: orphaned_rounds
-- Rounds that the engine believes to run in this process, though they don't: a lost connection ended their task.
select workflow_uuid from jobs.workflow_status
where status = 'PENDING' and executor_id = %(me)s and workflow_uuid <> all(%(running)s)
    and started_at_epoch_ms < extract(epoch from clock_timestamp()) * 1000 - 2000

-- name: silent_executors
-- Workers that hold rounds and have not been heard of for some seconds.
select distinct w.executor_id from jobs.workflow_status w left join gimle.job_executor e on e.id = w.executor_id
where w.status = 'PENDING' and w.executor_id is not null
    and (e.seen is null or e.seen < clock_timestamp() - make_interval(secs => %(stale)s))

-- name: hand_back
-- Puts rounds of these workers back into their queue; all of them, or those named.
update jobs.workflow_status
set status = 'ENQUEUED', owner_xid = null, started_at_epoch_ms = null,
    updated_at = (extract(epoch from clock_timestamp()) * 1000)::bigint
where status = 'PENDING' and executor_id = any(%(executors)s)
    and (%(rounds)s::text[] is null or workflow_uuid = any(%(rounds)s)) returning workflow_uuid

-- name: ended_rounds
-- Rounds that the engine has finished with: those that ended badly at once, the others after their time of grace.
select workflow_uuid as name, authenticated_user as tenant, status from jobs.workflow_status
where name = 'gimle.job' and completed_at is not null
    and (status in ('ERROR', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')
        or completed_at < extract(epoch from clock_timestamp()) * 1000 - %(grace)s * 1000)
order by completed_at limit 500

-- name: bury_round
-- Makes a dead letter of a job whose round the engine has given up, or that ends its workers.
with reason as (
    select jsonb_build_object('code', 'worker_lost', 'message', %(reason)s::text, 'attempt', attempts, 'at', now()) as why
    from gimle.job where id = %(id)s
)
update gimle.job set status = 'failed', phase = 'failed', owner = null, finished_at = now(), error = why,
    history = history || jsonb_build_array(why)
from reason where id = %(id)s and round = %(round)s and status in ('queued', 'running') returning id

-- name: forget_executors
-- Drops the rows of workers that have been gone for a day and hold nothing.
delete from gimle.job_executor e where e.seen < clock_timestamp() - interval '1 day'
    and not exists (select from jobs.workflow_status w where w.executor_id = e.id and w.status = 'PENDING')

-- name: known_tenants
-- Tenants that ever sent a job.
select distinct tenant from gimle.job_share

-- name: forget_jobs
-- Deletes the current tenant's jobs that ended more than some days ago, with their effects and keys.
delete from gimle.job where finished_at < now() - make_interval(days => %(days)s)

-- name: as_tenant
-- The rest of this transaction sees the rows of one tenant, under its policies.
select set_config('role', 'gimle_app', true), set_config('app.tenant', %(tenant)s, true)
