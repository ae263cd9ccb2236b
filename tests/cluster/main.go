// The components of a Kubernetes cluster in one program, for the tests. go.mod alone names their versions.
//
// One program rather than seven: they share nearly all of their code, so that it is linked once. The first argument names the component; so
// does the program's own name, for what expects a `kubectl` in its PATH.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubeapiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	kubecontrollermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	kubeproxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubescheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	// Each registers itself.
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
)

// component runs one of them and returns its exit code.
type component func() int

func daemon(command func() *cobra.Command) component {
	return func() int { return cli.Run(command()) }
}

var components = map[string]component{
	"etcd":                    func() int { etcdmain.Main(os.Args); return 0 },
	"kube-apiserver":          daemon(kubeapiserver.NewAPIServerCommand),
	"kube-controller-manager": daemon(func() *cobra.Command { return kubecontrollermanager.NewControllerManagerCommand() }),
	"kube-scheduler":          daemon(func() *cobra.Command { return kubescheduler.NewSchedulerCommand() }),
	"kubelet":                 daemon(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }),
	"kube-proxy":              daemon(func() *cobra.Command { return kubeproxy.NewProxyCommand() }),
	// It prints its own errors, in the form that its users know.
	"kubectl": func() int {
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	},
}

func main() {
	name := filepath.Base(os.Args[0])
	run, known := components[name]
	if !known && len(os.Args) > 1 {
		os.Args = os.Args[1:]
		name = os.Args[0]
		run, known = components[name]
	}
	if !known {
		fmt.Fprintf(os.Stderr, "%q is none of %v\n", name, slices.Sorted(maps.Keys(components)))
		os.Exit(2)
	}
	os.Exit(run())
}
