package table

import (
	batchv1 "k8s.io/api/batch/v1"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

func batch() []resource.Row {
	v1 := batchv1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &batchv1.Job{}, List: &batchv1.JobList{}, Plural: "jobs", Hooks: resource.Erase(kinds.Job), Table: printing.Jobs(), Categories: all, Namespaced: true, Status: true, Generation: true, OrphanDependents: true},
		{In: v1, Object: &batchv1.CronJob{}, List: &batchv1.CronJobList{}, Plural: "cronjobs", Hooks: resource.Erase(kinds.CronJob), Table: printing.CronJobs(), Short: []string{"cj"}, Categories: all, Namespaced: true, Status: true, Generation: true},
	}
}
